"""Temperatures and thresholds from validation answers."""

import keras
import numpy as np
import pytest
from keras import layers

from training.artifact.calibration import calibration, put_inside, temperature, tempered, threshold, threshold_by_folds
from training.runs.fitting import doubts_of_threshold


def answers(count: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of three classes whose logits are `sharpness` times those that the labels were drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 3))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = (honest.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return tempered(honest, 1 / sharpness), targets


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_made_the_answers_too_sure_or_too_shy(sharpness: float) -> None:
    probabilities, targets = answers(5000, sharpness)
    assert temperature(probabilities, targets) == pytest.approx(sharpness, rel=0.1)


def test_a_few_answers_change_less_than_many_would() -> None:
    probabilities, targets = answers(10, 3.0)
    assert 1 <= temperature(probabilities, targets) < 3


@pytest.mark.parametrize("count", [30, 150])
def test_answers_that_are_calibrated_stay_as_they_are(count: int) -> None:
    """But for the few times that chance speaks against them."""
    found = [temperature(*answers(count, 1.0, seed)) for seed in range(40)]
    assert found.count(1.0) >= 36


@pytest.mark.parametrize("sharpness", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("count", [30, 150])
def test_other_images_are_hardly_ever_calibrated_worse(count: int, sharpness: float) -> None:
    differences = []
    for seed in range(40):
        divisor = temperature(*answers(count, sharpness, seed))
        before, targets = answers(1000, sharpness, 100 + seed)
        found = calibration(before, tempered(before, divisor), targets, divisor)
        differences.append(found["after"] - found["before"])
    assert np.mean(np.array(differences) > 0.005) <= 0.1
    assert np.mean(differences) <= 0.002


def test_answers_that_are_too_sure_are_better_calibrated_on_other_images() -> None:
    divisor = temperature(*answers(2000, 3.0))
    before, targets = answers(2000, 3.0, seed=1)
    found = calibration(before, tempered(before, divisor), targets, divisor)
    assert found["temperature"] == divisor
    assert found["after"] < 0.3 * found["before"]


@pytest.mark.parametrize("count", [45, 150, 1500])
def test_a_temperature_that_cannot_mend_the_answers_is_not_taken(count: int) -> None:
    """The surest answers err more often than they say, the others less often: by likelihood alone, a temperature made
    other images' calibration error worse by 0.006, 0.018 and 0.022 on average."""

    def uneven(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        probabilities, targets = answers(count, 1.0, seed)
        rng = np.random.default_rng(seed)
        wrong = rng.random(count) < 0.05
        targets[wrong] = rng.integers(0, 3, count)[wrong]
        sure = probabilities.max(axis=1, keepdims=True) > 0.9
        return np.where(sure, tempered(probabilities, 0.5), tempered(probabilities, 1.5)), targets

    differences = []
    for seed in range(40):
        divisor = temperature(*uneven(count, seed))
        before, targets = uneven(1000, 100 + seed)
        found = calibration(before, tempered(before, divisor), targets, divisor)
        differences.append(found["after"] - found["before"])
    assert np.mean(differences) <= 0.003


def test_the_model_gives_the_tempered_answers() -> None:
    image = layers.Input((4,))
    model = keras.Model(image, layers.Dense(3, activation="softmax", bias_initializer="ones")(image))
    images = np.random.default_rng(0).random((10, 4)).astype(np.float32)
    expected = tempered(model.predict(images, verbose=0), 1.7)
    put_inside(model, 1.7)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-6)


def test_the_threshold_gives_the_precision_to_the_share_that_it_states() -> None:
    confidence = np.linspace(0.99, 0.6, 800)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    targets = np.zeros(800, int)
    targets[10:600:20] = 1  # 30 wrong answers among the surest 600, and nothing but wrong ones after them
    targets[600:] = 1
    found = threshold(probabilities, targets)
    assert found is not None
    low, high = found.pop("interval")
    assert 0.92 < low < 0.95 < high < 0.97
    assert found == {"probability": confidence[599], "precision": 0.95, "coverage": 0.75}
    answered = confidence >= found["probability"]
    assert (targets[answered] == 0).mean() >= 0.95


def test_answers_of_the_same_probability_are_counted_together() -> None:
    probabilities = np.repeat([[0.9, 0.1], [0.8, 0.2]], [100, 100], axis=0)
    targets = np.repeat([0, 1], [180, 20])  # of the second hundred the last twenty are wrong
    found = threshold(probabilities, targets)
    assert found is not None
    assert (found["probability"], found["precision"], found["coverage"]) == (0.9, 1.0, 0.5)


@pytest.mark.parametrize(("count", "given"), [(45, 0.0), (150, 0.1), (1500, 0.9)])
def test_the_precision_holds_on_other_images(count: int, given: float) -> None:
    """It was below 93 % in every second draw of 45, and every fourth of 150, when the validation answers' own share was
    all that was asked."""
    precisions = []
    for seed in range(60):
        if found := threshold(*answers(count, 1.0, seed)):
            probabilities, targets = answers(5000, 1.0, 1000 + seed)
            answered = probabilities.max(axis=1) >= found["probability"]
            precisions.append(float((probabilities.argmax(axis=1) == targets)[answered].mean()))
    assert np.sum(np.array(precisions) < 0.93) <= 0.1 * 60
    assert len(precisions) >= given * 60


def test_few_answers_name_a_threshold_and_how_widely_it_is_known() -> None:
    """One wrong answer of 36, as three classes of 100 pictures have them, and doubtful ones."""
    confidence = np.linspace(0.999, 0.9, 36)
    targets = np.zeros(36, int)
    targets[30] = 1
    found = threshold(np.stack([confidence, 1 - confidence], axis=1), targets)
    assert found is not None
    assert found["probability"] == confidence[29]  # thirty right ones say more than 35 of 36
    assert found["interval"][0] < 0.9 < found["interval"][1]
    (said,) = doubts_of_threshold(found, 36)
    assert "comes from 36 validation images" in said
    assert "89% to 100% of the sure answers will be right" in said
    assert doubts_of_threshold({**found, "interval": (0.94, 0.96)}, 900) == []
    assert "name no probability" in doubts_of_threshold(None, 9)[0]


@pytest.mark.parametrize("count", [2, 10])
def test_there_is_no_threshold_where_the_answers_are_too_few_or_wrong(count: int) -> None:
    probabilities = np.stack([np.linspace(0.9, 0.8, count), np.linspace(0.1, 0.2, count)], axis=1)
    assert threshold(probabilities, np.zeros(count, int)) is None
    assert threshold(np.repeat(probabilities, 40, axis=0), np.arange(40 * count) % 2) is None


def test_few_answers_get_the_share_that_many_others_can_be_relied_on() -> None:
    """36 validation answers, and 240 by folds."""
    precisions = []
    for seed in range(40):
        if not (folds := threshold(*answers(240, 1.0, 500 + seed))):
            continue
        if found := threshold_by_folds(*answers(36, 1.0, seed), folds):
            others, truth = answers(5000, 1.0, 1000 + seed)
            answered = others.max(axis=1) >= found["probability"]
            precisions.append(float((others.argmax(axis=1) == truth)[answered].mean()))
    assert len(precisions) >= 12
    assert np.mean(np.array(precisions) < 0.9) <= 0.2


def test_answers_that_speak_against_the_folds_are_believed() -> None:
    folds = {"probability": 0.5, "precision": 0.96, "coverage": 1.0}
    assert threshold_by_folds(*answers(200, 1.0), folds) is None
