"""Several devices: the same curve as one, or a refusal that says why."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving import artifacts
from tests.fixtures.server import ROOT
from training import fit
from training.runs import devices
from training.runs.devices import even, strategy
from training.runs.parts import RunError


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(devices.tf.config, "list_physical_devices", lambda kind: [object()] * count)


def test_one_device_needs_no_strategy() -> None:
    assert strategy(None, 7) is None


def test_several_machines_are_refused_with_the_issue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dense_sum", "--dataset", "digits", "--distribute", "multi-worker", "--runs", str(tmp_path / "runs")]
    assert fit.main(arguments) == 1
    assert "https://github.com/keras-team/keras/issues/20585" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_one_gpu_is_nothing_to_distribute_over(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    with pytest.raises(RunError, match="there is one GPU"):
        strategy("mirrored", 32)


def test_batch_that_does_not_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 3)
    with pytest.raises(RunError, match="a batch of 32 does not split evenly among 3 devices; --batch-size 33 does"):
        strategy("mirrored", 32)


@pytest.mark.parametrize(("images", "batch", "number", "taken"), [(96, 32, 2, 96), (97, 32, 2, 96), (101, 32, 4, 100)])
def test_last_batch_splits_evenly_too(images: int, batch: int, number: int, taken: int) -> None:
    assert even(images, batch, number) == taken
    assert even(images, batch, 1) == images


CURVES = """
from dataclasses import replace
import json, sys
import keras, numpy as np, tensorflow as tf
from training.recipes.table import recipe_for
from training.runs.devices import strategy
from training.runs.epochs import train_epoch

tf.config.experimental.enable_op_determinism()
spread = strategy("mirrored", 24)
recipe = replace(recipe_for("dense_sum", "d"), batch_size=24, epochs=4, augmentation=(), precision="float32")
rng = np.random.default_rng(0)
labels = np.arange(107) % 2
images = (rng.integers(0, 160, (107, 6, 6, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)
part = (images[:106], labels[:106])  # the last batch has ten images

def curve(scope):
    keras.utils.set_random_seed(3)
    with scope:
        image = keras.Input((6, 6, 3))
        hidden = keras.layers.Dense(16, activation="relu")(keras.layers.Flatten()(image))
        model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(hidden))
        recipe.compile(model)
    return [train_epoch(model, recipe, part, part, epoch)[0] for epoch in range(recipe.epochs)]

one = curve(tf.device("CPU:0"))
print(json.dumps([one, curve(spread.scope())]), file=open(sys.argv[1], "w"))
"""


@pytest.mark.thorough
def test_two_devices_give_the_curve_of_one(tmp_path: Path) -> None:
    """In a process of its own: devices are chosen before TensorFlow computes. No dropout, which each device draws for
    its own images, and no batch norm, whose statistics are those of a device's images."""
    found = tmp_path / "curves.json"
    subprocess.run([sys.executable, "-c", CURVES, str(found)], cwd=ROOT, check=True)
    one, two = json.loads(found.read_text())
    assert one[-1]["loss"] < one[0]["loss"]
    for epoch, other in zip(one, two, strict=True):
        for figure in ("loss", "val_loss"):
            assert other[figure] == pytest.approx(epoch[figure], rel=1e-3), figure


@pytest.mark.thorough
def test_command_trains_on_two_devices_and_publishes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(203) % 2
    images = (rng.integers(0, 160, (203, 12, 12, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images[:40], y_test=labels[:40])
    command = [sys.executable, "-m", "training.fit", "dense_sum", "--data", str(tmp_path / "d.npz"), "--labels", "a,b"]
    command += ["--epochs=2", "--batch-size=24", f"--output={tmp_path / 'models'}", f"--runs={tmp_path / 'runs'}"]
    done = subprocess.run([*command, "--distribute=mirrored"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "each batch of 24 is split among 2 devices" in done.stdout
    assert artifacts.read(tmp_path / "models" / "dense_sum-d" / "1").labels == ("a", "b")
