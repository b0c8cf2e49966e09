"""Folds: an accuracy that all pictures measure, and labels that they doubt."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.artifact.calibration import threshold
from training.artifact.trust import wilson_interval
from training.data.dataset import Dataset
from training.recipes.table import recipe_for
from training.runs.folds import MANY, SHARED, Folds, examined, judged
from training.runs.linear import STRENGTHS, cross_fitted, fitted, folds_of, lost_and_won, parts_of
from training.runs.suitability import without


def clouds(count: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 20) of three classes whose means lie `apart`."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, count)
    return (rng.normal(0, 1, (count, 20)) + apart * np.eye(3, 20)[targets]).astype(np.float32), targets


def folded(features: np.ndarray, targets: np.ndarray) -> Folds:
    folds = folds_of(targets, (), 0)
    answers, strength = cross_fitted(features, targets, 3, folds, np.ones(len(targets), bool), True)
    assert strength in STRENGTHS
    return judged(answers, targets)


def test_the_accuracy_is_that_of_new_pictures() -> None:
    found = folded(*clouds(300, 3)).stated
    features, targets = clouds(300, 3)
    others, truth = clouds(2000, 3, 1)
    expected = (fitted(features, targets, 3, 0.1, True).answers(others).argmax(axis=1) == truth).mean()
    assert found["interval"][0] <= expected <= found["interval"][1]
    assert found["interval"][1] - found["interval"][0] < 0.1


@pytest.mark.parametrize("apart", [6, 3.5])
def test_a_fifth_of_wrong_labels_is_noticed_and_the_pictures_are_found(apart: float) -> None:
    features, targets = clouds(300, apart)
    assert folded(features, targets).warnings == []
    rng = np.random.default_rng(1)
    wrong = rng.random(300) < 0.2
    given = np.where(wrong, (targets + rng.integers(1, 3, 300)) % 3, targets)
    found = folded(features, given)
    assert len(found.doubted) > MANY * 300
    assert "doubt the labels of" in found.warnings[0]
    assert wrong[list(found.doubted)].mean() > 0.7
    assert wrong[list(found.doubted[:20])].mean() > 0.9  # the first ones are the clearest
    assert wrong.nonzero()[0].size * 0.7 < wrong[list(found.doubted)].sum()


def test_doubted_pictures_are_named(tmp_path: Path) -> None:
    answers = np.repeat([[0.9, 0.1], [0.1, 0.9]], [20, 20], axis=0).astype(np.float32)
    targets = np.repeat([0, 1], [20, 20])
    targets[3] = 1
    found = judged(answers, targets)
    assert found.doubted == (3,)
    files = [Path(f"pets/{i}.jpg") for i in range(40)]
    told = found.told(("cat", "dog"), files, tmp_path)
    assert "pets/3.jpg: is it dog, or cat?" in told
    assert str(tmp_path / "doubted.csv") in told
    (row,) = found.listed(("cat", "dog"), files, np.arange(100, 140))
    assert (row["picture"], row["file"]) == (103, "pets/3.jpg")


def test_all_doubted_pictures_are_in_a_csv_whatever_their_names(tmp_path: Path) -> None:
    answers = np.repeat([[0.9, 0.1], [0.1, 0.9]], [40, 40], axis=0).astype(np.float32)
    targets = np.repeat([0, 1], [40, 40])
    targets[:30] = 1
    answers[40:70, 1] = 0.95  # as sure of the other class as that class' own pictures are
    files = [Path(os.fsdecode(f"pets/\N{LATIN SMALL LETTER E WITH ACUTE},{i}".encode("latin-1"))) for i in range(80)]
    found = judged(answers, targets)
    assert len(found.doubted) == 30
    found.write(tmp_path, ("cat", "dog"), files)
    with (tmp_path / "doubted.csv").open(newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label", "looks_like", "probability_of_label"]
    assert {Path(row["file"]) for row in rows} == set(files[:30])
    assert {(row["label"], row["looks_like"]) for row in rows} == {("dog", "cat")}
    (tmp_path / "told.txt").write_text(found.told(("cat", "dog"), files, tmp_path), encoding="utf-8")
    assert json.loads(json.dumps(found.listed(("cat", "dog"), files)))[0]["file"].startswith("pets/\\xe9,")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["doubted.csv", "told.txt"]


def test_folds_hold_every_class_and_never_part_a_group() -> None:
    targets = np.repeat([0, 1, 2], [50, 50, 3])
    folds = folds_of(targets, (), 0)
    for fold in range(5):
        assert np.bincount(targets[folds == fold], minlength=2)[:2].tolist() == [10, 10]
    groups = [f"film{i // 10}" if i < 100 else "" for i in range(103)]
    folds = folds_of(targets, groups, 0)
    assert all(len(set(folds[i : i + 10])) == 1 for i in range(0, 100, 10))
    assert judged(np.eye(3, dtype=np.float32)[targets], targets, groups).together == 13


def test_the_interval_allows_for_what_the_folds_share() -> None:
    """Answers by classifiers that learnt from the same pictures vary by more than as many trials would."""
    inside, narrow, draws = 0, 0, 40
    others, truth = clouds(3000, 1.5, 99)
    for seed in range(draws):
        features, targets = clouds(40, 1.5, seed)
        folds = folds_of(targets, (), seed)
        answers = np.zeros((40, 3))
        for learnt, asked in parts_of(folds):
            answers[asked] = fitted(features[learnt], targets[learnt], 3, 0.1, True).answers(features[asked])
        found = judged(answers, targets).stated
        new = fitted(features, targets, 3, 0.1, True).answers(others).argmax(axis=1) == truth
        low, high = wilson_interval(found["accuracy"], 40)
        narrow += low <= new.mean() <= high
        inside += found["interval"][0] <= new.mean() <= found["interval"][1]
    assert inside >= 0.9 * draws
    assert inside >= narrow


def test_doubted_films_are_named_before_their_frames() -> None:
    answers = np.repeat([[0.9, 0.1], [0.1, 0.9]], [20, 20], axis=0).astype(np.float32)
    targets = np.repeat([0, 1], [20, 20])
    targets[:6] = 1
    groups = ["one", "one", "one", "two", "two", ""] + [f"other{i}" for i in range(34)]
    assert judged(answers, targets, groups).doubted == (0, 3, 5, 1, 2, 4)


def test_classes_that_depend_on_left_and_right_have_no_folds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ImageNet's features of an arrow and of its mirror are alike: every label was doubted."""
    recipe = recipe_for("efficientnet_lite0", "arrows")
    images, targets = np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 2
    data = Dataset("arrows", "here", ("a", "b"), "plain", images, targets, images[:10], targets[:10])
    data = replace(data, files=tuple(Path(f"{i}.png") for i in range(50)))
    assert examined(without(recipe, "flip"), data, tmp_path) is None
    assert "hardly tell left from right" in capsys.readouterr().out


def test_frames_of_a_film_count_once() -> None:
    """Thirty frames tell no more than one: intervals, thresholds and comparisons count films."""
    films, frames = 15, 30
    groups = [f"film{i // frames}" for i in range(films * frames)]
    targets = np.repeat(np.arange(films) % 3, frames)
    answers = np.full((len(targets), 3), 0.01, np.float32)
    answers[np.arange(len(targets)), targets] = 0.98
    alone, together = judged(answers, targets).stated, judged(answers, targets, groups).stated
    assert alone["interval"][0] > 0.98
    assert together["interval"] == wilson_interval(1.0, films / SHARED)
    assert together["groups"] == films
    assert "450 images of 15 groups)" in judged(answers, targets, groups).told("abc", (), Path())
    found = judged(answers, targets, groups).threshold
    assert found
    assert found["interval"] == wilson_interval(1.0, films)
    assert threshold(answers[:90], targets[:90], groups[:90]) is None  # three films name none
    assert threshold(answers[:90], targets[:90])
    right = np.ones(len(targets), bool)
    wrong = right & ~np.isin(groups, ["film3"])
    assert lost_and_won(right, wrong, groups) == (1, 0)
    assert lost_and_won(right, wrong, ()) == (frames, 0)


def test_a_class_that_a_fold_cannot_learn_is_never_its_answer() -> None:
    features, targets = clouds(30, 6)
    targets = np.where(targets == 2, 0, targets)
    targets[0] = 2
    folds = folds_of(targets, (), 0)
    answers, _ = cross_fitted(features, targets, 3, folds, np.ones(30, bool), True)
    assert answers[0].argmax() != 2
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    learnt, asked = next(parts_of(folds))
    assert not (learnt & asked).any()
