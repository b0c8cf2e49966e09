"""`python -m training.fit`: what it publishes and keeps, what it says, and how it stops."""

import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

from training import evaluate
from training.artifact.graph import ExportError
from training.data.dataset import Dataset
from training.fit import main
from training.recipes.notebook import SYSTEMS
from training.recipes.table import recipe_for
from training.runs import fitting
from training.runs.epochs import batches_of
from training.runs.fitting import fit
from training.runs.parts import RunError, splits
from training.runs.run import Run

pytest_plugins = ["tests.fixtures.training"]
pytestmark = pytest.mark.usefixtures("keep_sigterm")

ROOT = Path(__file__).parents[2]


def npz(path: Path, count: int = 40) -> Path:
    """Pictures of 6x5 grey pixels in three classes."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 6, 5), np.uint8), np.arange(count) % 3
    np.savez(path, x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    return path


def drawn(count: int = 10) -> Dataset:
    images, labels = np.zeros((count, 4, 4, 1), np.uint8), np.arange(count) % 2
    images[:, 0, 0, 0] = np.arange(count)
    return Dataset("drawn", "drawn", ("a", "b"), "plain", images, labels, images[:3], labels[:3])


# What a run leaves


def test_the_card_has_every_documented_key(toy_run: Path) -> None:
    card = json.loads((toy_run / "models/tiny-digits/1/card.json").read_text())
    assert set(card) == {
        *("name", "network", "dataset", "labels", "input_shape", "input_convention", "resample", "parameters"),
        *("recipe", "metrics", "macs", "intervals", "warnings", "training", "libraries", "revision", "files"),
        "exactness",
    }
    assert (card["name"], card["network"]) == ("tiny-digits", "_tiny")
    assert set(card["dataset"]) == {"name", "origin", "train", "test"}
    assert (card["dataset"]["name"], card["dataset"]["train"], card["dataset"]["test"]) == ("digits", 1438, 359)
    assert set(card["metrics"]) == {"accuracy", "loss", "calibration_error", "per_class_accuracy"}
    assert list(card["metrics"]["per_class_accuracy"]) == card["labels"] == list("0123456789")
    assert set(card["training"]) == {"epochs", "seconds", "images_per_second", "hardware"}
    assert (card["input_shape"], card["input_convention"]) == ([28, 28, 1], "light_on_dark_centred")
    assert card["recipe"] == {"name": "notebook", **replace(recipe_for("_tiny"), epochs=4).hyper_parameters()}
    assert card["training"]["epochs"] == 4


def test_the_run_folder_has_the_versions_number_and_everything_to_go_on_from(toy_run: Path) -> None:
    runs = toy_run / "runs" / "tiny-digits"
    assert [path.name for path in runs.iterdir()] == ["1"]
    names = {"model.keras", "run.json", "state.json", "report.html", "curves.png", "confusion.png", "reliability.png"}
    assert {path.name for path in (runs / "1").iterdir()} == names


def test_the_record_repeats_the_card_and_adds_history_and_confusion(toy_run: Path) -> None:
    record = json.loads((toy_run / "runs/tiny-digits/1/run.json").read_text())
    card = json.loads((toy_run / "models/tiny-digits/1/card.json").read_text())
    assert (record["model"], record["version"]) == ("tiny-digits", 1)
    assert all(record[key] == card[key] for key in ("network", "dataset", "recipe", "metrics", "training"))
    names = {"loss", "categorical_accuracy", "val_loss", "val_categorical_accuracy"}
    assert {key: len(values) for key, values in record["history"].items()} == dict.fromkeys(names, 4)
    confusion = np.array(record["confusion"])
    assert (confusion.shape, confusion.sum()) == ((10, 10), 359)
    assert np.trace(confusion) / 359 == pytest.approx(card["metrics"]["accuracy"])
    assert record["binary_accuracy"] > card["metrics"]["accuracy"]


def test_keras_own_last_validation_is_the_cards_accuracy(toy_run: Path) -> None:
    record = json.loads((toy_run / "runs/tiny-digits/1/run.json").read_text())
    assert record["history"]["val_categorical_accuracy"][-1] == pytest.approx(record["metrics"]["accuracy"], abs=1e-6)


def test_the_output_tells_the_plan_each_epoch_the_result_and_how_to_serve(toy_run: Path) -> None:
    lines = (toy_run / "output.txt").read_text().splitlines()
    assert lines[0].startswith("tiny-digits: 168,842 parameters, images 28x28x1, 10 classes")
    assert len([line for line in lines if re.match(r"epoch [1-4]/4: loss \d.*categorical accuracy 0\.\d+", line)]) == 4
    assert any(line.startswith("test split: categorical accuracy 0.") for line in lines)
    assert lines[-2] == f"published {toy_run}/models/tiny-digits/1"
    assert lines[-1] == f"serve it: SHORTCUT_MODELS={toy_run}/models SHORTCUT_DEFAULT_MODEL=tiny-digits make serve"


# What the options do


@pytest.mark.usefixtures("cheaply")
def test_options_reach_the_card_and_the_default_folders_need_no_setting_to_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "1", "--batch-size", "16", "--seed", "7", "--labels", "cat,dog,eel,fox", "--image-size", "9"]
    options += ["--learning-rate", "0.01"]
    assert main(["_tiny", "--data", str(npz(tmp_path / "pets.npz")), "--origin", "a shelter", *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "serve it: SHORTCUT_DEFAULT_MODEL=tiny-pets make serve"
    assert (tmp_path / "runs/tiny-pets/1/run.json").is_file()
    card = json.loads((tmp_path / "models/tiny-pets/1/card.json").read_text())
    assert card["dataset"] == {"name": "pets", "origin": "a shelter", "train": 40, "test": 9}
    assert (card["labels"], card["input_shape"]) == (["cat", "dog", "eel", "fox"], [9, 9, 1])
    assert card["metrics"]["per_class_accuracy"]["fox"] is None
    recipe = card["recipe"]
    assert (recipe["epochs"], recipe["batch_size"], recipe["seed"], recipe["dataset"]) == (1, 16, 7, "pets")
    assert (recipe["name"], recipe["learning_rate"]) == ("augmented", 0.01)


@pytest.mark.parametrize(
    ("system", "train", "validation"),
    [("conv_resnet_deep-mnist", range(8), range(8, 10)), ("dense_resnet-mnist", range(10), range(3))],
)
def test_validation_is_the_end_of_the_training_split_or_the_test_split(
    system: str, train: range, validation: range
) -> None:
    (images, labels), (held_out, targets) = splits(SYSTEMS[system], drawn())
    assert list(images[:, 0, 0, 0]) == list(train)
    assert list(held_out[:, 0, 0, 0]) == list(validation)
    assert list(labels) == [i % 2 for i in train]
    assert list(targets) == [i % 2 for i in validation]


def test_batches_are_pixels_in_0_1_and_one_hot_labels_in_the_order_given() -> None:
    images = np.arange(0, 250, 50, np.uint8).reshape(5, 1, 1, 1)
    batches = list(batches_of(images, np.arange(5), 6, size=2, order=np.array([4, 0, 3, 1, 2])))
    assert [len(pixels) for pixels, _ in batches] == [2, 2, 1]
    pixels, labels = (np.concatenate([np.asarray(batch[i]) for batch in batches]) for i in (0, 1))
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels.ravel() * 255, [200, 0, 150, 50, 100], rtol=1e-6)
    np.testing.assert_array_equal(labels, np.eye(6)[[4, 0, 3, 1, 2]])


@pytest.mark.usefixtures("cheaply")
def test_a_folder_of_pictures_becomes_a_model_that_agrees_with_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Discs on noise, in two colours and many sizes, one file damaged: what a first user has."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(80):
        name, colour = (("red", (200, 40, 40)), ("blue", (40, 40, 200)))[i % 2]
        side = int(rng.integers(20, 60))
        image = Image.fromarray(rng.integers(0, 256, (side, side + 5, 3), np.uint8))
        ImageDraw.Draw(image).ellipse((2, 2, side - 2, side - 2), fill=colour)
        (tmp_path / "discs" / name).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "discs" / name / f"{i}.{('png', 'jpg', 'webp')[i % 3]}")
    (tmp_path / "discs" / "red" / "broken.jpg").write_bytes(b"no picture")
    assert main(["conv_resnet_shallow", "--data", "discs", "--epochs", "3"]) == 0
    said = capsys.readouterr().out
    assert re.search("^conv_resnet_shallow-discs: .* images 32x32x3, 2 classes$", said, re.MULTILINE)
    assert "blue                      27       5       8" in said
    assert "skipped 1 files that cannot be read:\n  discs/red/broken.jpg: not a readable image" in said
    assert re.search("warning: 1[56] test images are few", said)
    card = json.loads(Path("models/conv_resnet_shallow-discs/1/card.json").read_text())
    assert card["metrics"]["accuracy"] >= 0.75
    assert card["recipe"]["name"] == "augmented"
    assert len(card["warnings"]) == said.count("warning: ")
    low, high = card["intervals"]["accuracy"]
    assert low < card["metrics"]["accuracy"] <= high
    assert evaluate.main(["models/conv_resnet_shallow-discs", "--data", "discs"]) == 0
    assert capsys.readouterr().out.strip().endswith(": agrees")


def test_tensorflow_tells_only_errors(tmp_path: Path) -> None:
    """With few pictures it warns at length that retracing is expensive, and nothing could be done about it."""
    tf.get_logger().setLevel(logging.WARNING)
    assert main(["_tiny", "--data", str(tmp_path / "nowhere")]) == 1
    assert not tf.get_logger().isEnabledFor(logging.WARNING)
    assert tf.get_logger().isEnabledFor(logging.ERROR)


# What is refused


def test_a_name_that_could_not_be_published_is_refused_before_training(tmp_path: Path) -> None:
    recipe = replace(recipe_for("_tiny", "my pets"), epochs=1)
    with pytest.raises(ExportError, match="model name 'tiny-my pets'"):
        fit(recipe, drawn(), output=tmp_path / "models", runs=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_to_hold_some_out_are_refused(tmp_path: Path) -> None:
    recipe = replace(recipe_for("_tiny", "drawn"), validation=0.2)
    with pytest.raises(RunError, match="4 training images are too few to hold out 20%"):
        fit(recipe, drawn(4), output=tmp_path / "models", runs=tmp_path / "runs")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["_tiny", "--dataset", "imagenet"], "unknown data set 'imagenet': choose from mnist, cifar10, digits"),
        (["_tiny", "--data", "nowhere.npz"], "nowhere.npz: no such file or folder"),
        (["conv_resnet_deep", "--data", "pets.npz"], "at least 13x13 pixels, got 5x6"),
        (["_tiny", "--data", "pets.npz", "--labels", "a,b"], "--labels must name at least 3 different classes, got 2"),
        (["_tiny", "--data", "pets.npz", "--dataset", "../pets"], "model name 'tiny-../pets'"),
        (["_tiny", "--data", "my pets.npz"], "at most 100; --dataset NAME names the data"),
        (["_tiny", "--data", "pets.npz", "--runs", "pets.npz"], "cannot write to pets.npz/tiny-pets"),
    ],
)
@pytest.mark.usefixtures("cheaply")
def test_what_cannot_be_trained_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "pets.npz")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert told in error
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name a NETWORK (dense_resnet, "),
        (["alexnet"], "argument NETWORK: invalid choice: 'alexnet'"),
        (["_tiny", "--epochs", "0"], "argument --epochs: must be at least 1, got 0"),
        (["_tiny", "--batch-size", "-4"], "argument --batch-size: must be at least 1, got -4"),
        (["_tiny", "--seed", "-1"], "argument --seed: must not be negative, got -1"),
        (["_tiny", "--learning-rate", "nan"], "argument --learning-rate: must be above 0 and below 100, got nan"),
        (["_tiny", "--recipe", "secret"], "argument --recipe: invalid choice: 'secret'"),
        (["_tiny", "--image-size", "big"], "argument --image-size: expected a whole number, got 'big'"),
    ],
)
def test_a_bad_argument_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_help_names_the_networks_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    page = capsys.readouterr().out
    options = (
        "dataset",
        "data",
        "labels",
        "image-size",
        "epochs",
        "batch-size",
        "seed",
        "output",
        "runs",
        "resume",
        "recipe",
    )
    assert all(f"--{option}" in page for option in options)
    assert all(network in page for network in ("dense_resnet", "conv_resnet_deep", "conv_resnet_shallow", "dense_sum"))


# Stopping


@pytest.mark.usefixtures("cheaply")
def test_a_full_disk_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of files stands for the disk: both fail when a checkpoint is written."""
    data = npz(tmp_path / "pets.npz")
    folders = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs"), "--data", str(data)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert main(["_tiny", "--epochs", "2", *folders]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "File too large" in line or "No space" in line
    assert not (tmp_path / "models").exists()


@pytest.mark.usefixtures("cheaply")
def test_a_training_that_has_diverged_ends_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = Run.new_model

    def diverged(self: Run, *rest: str) -> keras.Model:
        model = build(self, *rest)
        model.set_weights([weight * np.float32(np.nan) for weight in model.get_weights()])
        return model

    monkeypatch.setattr(Run, "new_model", diverged)
    folders = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["_tiny", "--data", str(npz(tmp_path / "pets.npz")), "--epochs", "3", *folders]) == 1
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error.startswith(
        "error: epoch 1: the loss is nan, the training has diverged; start again with a --learning-rate smaller"
    )
    assert not (tmp_path / "models").exists()


@pytest.mark.usefixtures("cheaply")
def test_ctrl_c_after_publishing_names_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Run, *rest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "finish", interrupted)
    folders = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["_tiny", "--data", str(npz(tmp_path / "pets.npz")), "--epochs", "1", *folders]) == 130
    assert f"interrupted: {tmp_path}/models/tiny-pets/1 is published" in capsys.readouterr().err


@pytest.mark.usefixtures("cheaply")
def test_ctrl_c_before_the_first_epoch_leaves_nothing_and_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(model: object, run: Run, *rest: object) -> None:
        (run.folder / "train.partial").write_bytes(bytes(1000))  # features, half computed
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "_prepared", interrupted)
    folders = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["_tiny", "--data", str(npz(tmp_path / "pets.npz")), "--epochs", "1", *folders]) == 130
    error = capsys.readouterr().err
    assert "no epoch was trained: there is nothing to resume" in error
    assert "--resume" not in error
    assert list((tmp_path / "runs" / "tiny-pets").iterdir()) == []


@pytest.mark.usefixtures("cheaply")
def test_an_output_that_cannot_be_written_is_told_before_pictures_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.fit.load", lambda *_, **__: pytest.fail("pictures were read"))
    data = npz(tmp_path / "pets.npz")
    folders = ["--output", str(data / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["_tiny", "--data", str(data), "--epochs", "1", *folders]) == 1
    assert f"error: --output {data}/models: cannot write to {data}" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("cheaply")
def test_more_epochs_go_on_with_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["_tiny", "--data", str(npz(tmp_path / "pets.npz")), "--recipe", "notebook"]
    command += ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs"), "--epochs"]
    assert main([*command, "2"]) == 0
    assert main([*command, "3", "--resume"]) == 0
    assert main([*command, "3", "--resume"]) == 1
    assert "2 is finished with 3 epochs; --epochs with more continues it" in capsys.readouterr().err
    records = [json.loads((tmp_path / f"runs/tiny-pets/{v}/run.json").read_text()) for v in (1, 2)]
    assert records[1]["history"]["loss"][:2] == records[0]["history"]["loss"]
    assert len(records[1]["history"]["loss"]) == 3


@pytest.mark.thorough  # the next test does so in this process
@pytest.mark.usefixtures("cheaply")  # what resumes it
def test_a_stopped_training_publishes_nothing_and_can_be_resumed(tmp_path: Path) -> None:
    data = npz(tmp_path / "pets.npz")
    folders = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs"), "--data", str(data)]
    folders += ["--recipe", "notebook"]
    command = [sys.executable, "-m", "training.fit", "_tiny", "--epochs", "500", *folders]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    ) as process:
        try:
            state = first_state(tmp_path / "runs", process)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert not (tmp_path / "models").exists()
    done = len(json.loads(state.read_text())["seconds"])
    assert 1 <= done < 500
    assert "interrupted: nothing was published; the same command with --resume continues" in error
    assert main(["_tiny", "--epochs", str(done + 1), "--resume", *folders]) == 0
    record = json.loads((tmp_path / "runs/tiny-pets/1/run.json").read_text())
    assert len(record["epoch_seconds"]) == done + 1


@pytest.mark.usefixtures("cheaply")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_training_and_it_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    save = Run.save

    def save_and_terminate(self: Run, *rest: Any) -> None:
        save(self, *rest)
        os.kill(os.getpid(), number)

    command = ["_tiny", "--data", str(npz(tmp_path / "pets.npz")), "--recipe", "notebook"]
    command += ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs"), "--epochs"]
    with monkeypatch.context() as patched:
        patched.setattr(Run, "save", save_and_terminate)
        if number == signal.SIGTERM:
            with pytest.raises(SystemExit) as caught:
                main([*command, "9"])
            assert caught.value.code == 143
        else:
            assert main([*command, "9"]) == 130
            told = capsys.readouterr().err
            assert "interrupted: nothing was published; the same command with --resume continues" in told
    assert not (tmp_path / "models").exists()
    (state,) = (tmp_path / "runs").glob("tiny-pets/unfinished-*/state.json")
    assert len(json.loads(state.read_text())["seconds"]) == 1
    if number == signal.SIGINT:
        assert main([*command, "2", "--resume"]) == 0
        record = json.loads((tmp_path / "runs/tiny-pets/1/run.json").read_text())
        assert len(record["epoch_seconds"]) == 2


def first_state(runs: Path, process: subprocess.Popen[str]) -> Path:
    """Wait for the first checkpoint of the run that `process` is."""
    deadline = time.monotonic() + 180  # TensorFlow's import, on a busy machine
    while time.monotonic() < deadline and process.poll() is None:
        if found := list(runs.glob("tiny-pets/unfinished-*/state.json")):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint came; exit code {process.poll()}")
