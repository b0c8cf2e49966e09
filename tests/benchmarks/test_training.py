"""The speed of two recipes side by side, at toy size."""

import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.training import CLASSES, main, ways
from training.networks.table import NETWORKS


@pytest.fixture(autouse=True)
def one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """dense_sum with one block of three: the figures are not judged, and each way traces the whole network."""
    monkeypatch.setitem(NETWORKS, "dense_sum", replace(NETWORKS["dense_sum"], blocks=1))


def test_both_recipes_are_timed_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dense_sum", "--dataset", "mnist", "--images", "256", "--rounds", "1"]) == 0
    notebook, tuned, *_ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"notebook: [\d,]+ images/s, 1\.00 times the notebook's \(median of 1 pairs\)", notebook)
    with pytest.raises(SystemExit):
        main(["resnet9"])  # the notebook does not have it
    assert "resnet9" in capsys.readouterr().err
    assert re.fullmatch(r"tuned, (mixed_bfloat16|float32): [\d,]+ images/s, [\d.]+ times .*", tuned)


@pytest.mark.thorough  # the two other tests are of the same command, and of what is compared
def test_the_tuned_recipe_is_timed_beside_plain_keras(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dense_sum", "--dataset", "mnist", "--images", "256", "--rounds", "1", "--beside-keras"]
    assert main(arguments) == 0
    plain, tuned, *_, machine = capsys.readouterr().out.splitlines()
    expected = r"plain Keras, float32: [\d,]+ images/s, 1\.00 times plain Keras' \(median of 1 pairs\)"
    assert re.fullmatch(expected, plain)
    assert re.fullmatch(r"tuned, (mixed_bfloat16|float32): [\d,]+ images/s, [\d.]+ times plain Keras' .*", tuned)
    assert machine.startswith("on ")


def test_a_recipe_that_begins_with_smaller_images_is_timed_with_these_too() -> None:
    names = [way.name for way in ways("efficientnet_lite0_small", "cifar10", beside_keras=True)]
    assert sum("smaller images, as in 70% of its epochs" in name for name in names) == 1
    assert not [way for way in ways("resnet9", "cifar10", beside_keras=True) if "smaller" in way.name]


def test_keras_alone_trains_the_same_network_with_the_same_batch() -> None:
    plain, tuned = ways("dense_sum", "mnist", beside_keras=True)[:2]
    images = np.zeros((300, 28, 28, 1), np.uint8), np.arange(300) % CLASSES
    steps = []
    for way in (plain, tuned):
        model = way.model((28, 28, 1))
        way.train(model, images, 0)
        steps.append((int(model.optimizer.iterations), model.count_params(), type(model.optimizer)))
        assert model.get_layer("probabilities").dtype_policy.name == "float32"
    assert steps[0] == steps[1]
    assert steps[0][0] == 3
