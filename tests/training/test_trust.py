"""The interval of an accuracy against scipy's or values by hand, and each warning where it belongs and nowhere else."""

import numpy as np
import pytest
from scipy.stats import binomtest

from training.artifact.trust import by_class, warnings_of, wilson_interval


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (7, 12), (950, 1000)])
def test_the_interval_is_wilsons(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-4)


def answers(predicted: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predicted]


def test_good_answers_to_enough_images_need_no_warning() -> None:
    targets = np.arange(300) % 3
    predicted = np.where(np.arange(300) % 10 == 0, (targets + 1) % 3, targets)
    assert warnings_of(answers(predicted), targets, "abc", 0.95) == []


@pytest.mark.parametrize(
    ("predicted", "targets", "train", "told"),
    [
        (np.zeros(300, int), np.arange(300) % 3, 0.4, ["33.3% is no better than always", "it never answers b, c"]),
        (np.arange(300) % 3, np.repeat([0, 1], [290, 10]), 0.4, ["no better than always answering the most frequent"]),
        (
            np.where(np.arange(400) % 4 == 0, 1, np.arange(400) % 2),
            np.arange(400) % 2,
            0.99,
            ["99.0% of the training", "far below the others: a (50%)"],
        ),
        (np.arange(2), np.arange(2), 1.0, ["100.0% on 2 test images may be luck", "2 test images are few"]),
        (
            np.arange(30) % 2,
            np.arange(30) % 2,
            1.0,
            ["30 test images are few: the accuracy lies between 88.6% and 100.0%"],
        ),
    ],
)
def test_each_doubt_is_told_with_what_to_do(
    predicted: np.ndarray, targets: np.ndarray, train: float, told: list[str]
) -> None:
    found = warnings_of(answers(predicted), targets, "abc", train)
    assert len(found) == len(told)
    for warning, part in zip(found, told, strict=True):
        assert part in warning


def test_class_far_below_the_others_is_a_warning() -> None:
    targets = np.arange(360) % 3
    predicted = targets.copy()
    eights = np.flatnonzero(targets == 2)
    predicted[eights[:109]] = 0  # 11 of 120 are right
    (told,) = [text for text in warnings_of(answers(predicted), targets, ("1", "7", "8"), 0.7) if "far below" in text]
    assert told.startswith("far below the others: 8 (9%)")
    assert not any("far below" in text for text in warnings_of(answers(targets), targets, ("1", "7", "8"), 1.0))


def test_frames_of_a_film_count_once() -> None:
    targets = np.repeat([0, 1, 2], 100)
    (told,) = warnings_of(answers(targets), targets, "abc", 1.0, groups=3)
    assert (
        told == "3 groups of test images are few: the accuracy lies between 43.8% and 100.0% (95 %); add groups of them"
    )
    _, rows = by_class(targets, targets, "abc", [f"film{label}" for label in targets])
    low, high = wilson_interval(1.0, 1)
    assert rows[0] == ("a", "100", *[f"1.0000 ({low:.2f} to {high:.2f})"] * 2)
    assert by_class(targets, targets, "abc")[1][0][2] == "1.0000 (0.96 to 1.00)"


def test_the_advice_suits_what_was_trained() -> None:
    targets = np.arange(300) % 3
    useless, weak = np.zeros(300, int), np.where(np.arange(300) % 3 == 2, 0, targets)
    for predicted in (useless, weak):
        told = " ".join(warnings_of(answers(predicted), targets, "abc", 0.95, quick=True))
        assert "train the whole network, without --quick" in told
        assert "epochs" not in told
        assert "--recipe" not in told
        told = " ".join(warnings_of(answers(predicted), targets, "abc", 0.95, augmented=True))
        assert "epochs" in told
        assert "--recipe" not in told
        assert "--recipe augmented" in " ".join(warnings_of(answers(predicted), targets, "abc", 0.95))
