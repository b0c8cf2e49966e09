"""A run's folder: what an interruption leaves, what resuming gives, what a finished run keeps."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.fixtures.training import cheap_export
from training.data.dataset import Dataset
from training.data.loading import load
from training.fit import main
from training.recipes.recipe import Recipe
from training.recipes.table import recipe_for
from training.runs import run as module
from training.runs.parts import RunError
from training.runs.run import Run

pytest_plugins = ["tests.fixtures.training"]
pytestmark = pytest.mark.usefixtures("keep_sigterm")


@pytest.fixture(scope="module")
def data() -> Dataset:
    """A handful of drawn pictures: enough to build a model for and to tell one data set from another."""
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), np.uint8)
    return Dataset("drawn", "drawn", ("a", "b"), "plain", images, np.arange(6) % 2, images[:2], np.arange(2))


@pytest.fixture
def recipe(small_network: str) -> Recipe:
    return replace(recipe_for("_tiny", "drawn", "notebook"), network=small_network, epochs=2)


FINISHED = {"model.keras", "run.json", "state.json"}
FIGURES = {key: 0.5 for n in ("loss", "categorical_accuracy") for key in (n, f"val_{n}")}


def begun(folder: Path, recipe: Recipe, data: Dataset, epochs: int = 1) -> Run:
    """An unfinished run with that many checkpoints of an untrained model."""
    run = Run.open(folder, recipe, data, resume=False)
    model = run.restore()
    model.optimizer.build(model.trainable_variables)  # as the first batch does
    for _ in range(epochs):
        run.save(model, FIGURES, seconds=1.5)
    return run


def weights(path: Path) -> list[np.ndarray]:
    return keras.saving.load_model(path).get_weights()


def interrupting(save: Callable[..., None], after: int) -> Callable[..., None]:
    """`Run.save`, and then Ctrl-C once that many epochs are saved."""

    def save_and_interrupt(self: Run, *rest: Any) -> None:
        save(self, *rest)
        if len(self.seconds) == after:
            raise KeyboardInterrupt

    return save_and_interrupt


# Resuming a real training


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, toy_run: Path) -> Path:
    """The toy run again, interrupted after epoch 2 of 4 and resumed."""
    folder = tmp_path_factory.mktemp("resumed")
    command = ["_tiny", "--epochs", "4", "--output", str(folder / "models"), "--runs", str(folder / "runs")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save", interrupting(Run.save, after=2))
        assert main(command) == 130
    assert not (folder / "models").exists()
    with cheap_export():
        assert main([*command, "--resume"]) == 0
    return folder


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(toy_run: Path, resumed: Path) -> None:
    whole, again = (weights(folder / "runs/tiny-digits/1/model.keras") for folder in (toy_run, resumed))
    assert len(whole) == len(again) > 0
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_resumed_run_has_the_very_figures_of_an_uninterrupted_one(toy_run: Path, resumed: Path) -> None:
    whole, again = (json.loads((folder / "runs/tiny-digits/1/run.json").read_text()) for folder in (toy_run, resumed))
    assert again["history"] == whole["history"]
    assert again["metrics"] == whole["metrics"]
    assert again["confusion"] == whole["confusion"]
    assert len(again["epoch_seconds"]) == 4


def test_the_training_learns_something(toy_run: Path) -> None:
    record = json.loads((toy_run / "runs/tiny-digits/1/run.json").read_text())
    assert record["history"]["loss"][-1] < record["history"]["loss"][0]
    assert record["metrics"]["accuracy"] > 0.2


# What lies on the disk


def test_each_epoch_leaves_one_checkpoint_and_the_state_that_names_it(
    tmp_path: Path, recipe: Recipe, data: Dataset
) -> None:
    run = begun(tmp_path / "toy", recipe, data, epochs=3)
    assert run.folder.name.startswith("unfinished-")
    assert {path.name for path in run.folder.iterdir()} == {"epoch-003.keras", "state.json"}
    state = json.loads((run.folder / "state.json").read_text())
    assert state["checkpoint"] == "epoch-003.keras"
    assert state["seconds"] == [1.5] * 3
    assert state["history"]["loss"] == [0.5] * 3


def test_resuming_restores_the_newest_checkpoint_with_its_history(
    tmp_path: Path, recipe: Recipe, data: Dataset
) -> None:
    old = begun(tmp_path, recipe, data)
    shutil.copytree(old.folder, tmp_path / "unfinished-29991231-000000-1")
    model = keras.saving.load_model(tmp_path / "unfinished-29991231-000000-1" / "epoch-001.keras")
    model.set_weights([w + 1 for w in model.get_weights()])
    model.save(tmp_path / "unfinished-29991231-000000-1" / "epoch-001.keras")
    run = Run.open(tmp_path, recipe, data, resume=True)
    assert run.folder.name == "unfinished-29991231-000000-1"
    assert (run.seconds, run.history["loss"]) == ([1.5], [0.5])
    for restored, saved in zip(run.restore().get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(restored, saved)


def test_an_interrupted_save_leaves_the_epoch_before_it(
    tmp_path: Path, recipe: Recipe, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path, recipe, data)

    def interrupted(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    model = run.restore()
    monkeypatch.setattr(module, "_replace_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.save(model, FIGURES, 1.5)
    again = Run.open(tmp_path, recipe, data, resume=True)
    assert (len(again.seconds), again.checkpoint) == (1, run.folder / "epoch-001.keras")
    assert again.restore().count_params() > 0


def test_a_finished_run_keeps_weights_and_record_only(
    tmp_path: Path, recipe: Recipe, data: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(tmp_path, recipe, data, epochs=2)
    (run.folder / "epoch-001.keras").write_text("left by an interruption")
    run.finish(run.restore(), {"version": 1}, "7")
    assert run.folder == tmp_path / "7"
    assert {path.name for path in run.folder.iterdir()} == FINISHED
    assert [path.name for path in tmp_path.iterdir()] == ["7"]
    assert str(tmp_path / "7") in capsys.readouterr().out


def test_a_version_of_the_same_number_is_kept_beside(tmp_path: Path, recipe: Recipe, data: Dataset) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "run.json").write_text("of another output folder")
    run = begun(tmp_path, recipe, data)
    run.finish(run.restore(), {"version": 1}, "1")
    assert run.folder.name.startswith("1-")
    assert (tmp_path / "1" / "run.json").read_text() == "of another output folder"


# The best epoch, and stopping early


def with_validation(
    folder: Path, recipe: Recipe, data: Dataset, accuracies: list[float], head: float | None = None
) -> Run:
    """A run with an epoch of each validation accuracy; its first bias holds the epoch's number, or -1 of a head."""
    run = Run.open(folder, recipe, data, resume=False)
    model = run.restore()
    model.optimizer.build(model.trainable_variables)
    if head is not None:
        model.layers[-1].bias.assign([-1, -1])
        run.save_head(model, {"categorical_accuracy": 0.9, "val_categorical_accuracy": head})
    for epoch, accuracy in enumerate(accuracies):
        model.layers[-1].bias.assign(np.full(2, epoch))
        run.save(model, FIGURES | {"val_categorical_accuracy": accuracy}, seconds=1.0)
    return run


def with_recalls(folder: Path, recipe: Recipe, data: Dataset, ships: list[float], cats: list[float]) -> Run:
    """A run whose epochs recognise these shares of 500 ships and 5 cats."""
    targets = np.repeat([0, 1], [500, 5])
    few = replace(data, x_test=np.zeros((505, 4, 4, 1), np.uint8), y_test=targets)
    run = Run.open(folder, recipe, few, resume=False)
    model = run.restore()
    model.optimizer.build(model.trainable_variables)
    for ship, cat in zip(ships, cats, strict=True):
        figures = {"val_categorical_accuracy": (500 * ship + 5 * cat) / 505, "val_mean_recall": (ship + cat) / 2}
        run.save(model, FIGURES | figures, seconds=1.0)
    return run


def test_where_classes_count_alike_the_epoch_is_chosen_so_too(tmp_path: Path, recipe: Recipe, data: Dataset) -> None:
    """By accuracy it is the first one, which knows no cat."""
    recipe = replace(recipe, published="best", epochs=100, class_weights=True, early_stopping=2)
    ships, cats = [1.0, 0.95, 0.94, 0.95], [0.0, 0.2, 1.0, 0.2]
    assert with_recalls(tmp_path / "a", recipe, data, ships, cats).best_epoch == 2
    assert not with_recalls(tmp_path / "b", recipe, data, ships, cats).done
    assert with_recalls(tmp_path / "c", recipe, data, [*ships, 0.95], [*cats, 0.2]).done


def bias(model: keras.Model) -> float:
    return float(model.layers[-1].bias.numpy()[0])


@pytest.fixture(scope="module")
def many(data: Dataset) -> Dataset:
    """So many validation images that one standard error is half a point at most."""
    return replace(data, x_test=np.zeros((10_000, 4, 4, 1), np.uint8), y_test=np.zeros(10_000, np.int64))


@pytest.mark.parametrize(("published", "epoch"), [("best", 2), ("last", 3)])
def test_the_best_epoch_or_the_last_is_published_and_more_epochs_start_from_the_last(
    tmp_path: Path, recipe: Recipe, many: Dataset, published: str, epoch: int
) -> None:
    recipe = replace(recipe, published=published, epochs=4)
    run = with_validation(tmp_path, recipe, many, [0.5, 0.752, 0.75, 0.7])
    assert run.done
    kept = {f"epoch-{i + 1:03}.keras" for i in (epoch, 3)}
    assert {path.name for path in run.folder.iterdir()} == {*kept, "state.json"}
    assert bias(run.published_model(run.restore())) == epoch
    run.finish(run.published_model(run.restore()), {"version": 1}, "1")
    assert bias(keras.saving.load_model(tmp_path / "1" / "model.keras")) == epoch
    more = Run.open(tmp_path, replace(recipe, epochs=6), many, resume=True)
    assert (len(more.seconds), more.best_epoch, more.done) == (4, epoch, False)
    assert bias(more.restore()) == 3
    assert (tmp_path / "1" / "run.json").is_file()


@pytest.mark.parametrize(("images", "epoch"), [(10_000, 1), (100, 3)])
def test_of_epochs_that_the_validation_images_cannot_tell_apart_the_last_is_published(
    tmp_path: Path, recipe: Recipe, data: Dataset, images: int, epoch: int
) -> None:
    few = replace(data, x_test=np.zeros((images, 4, 4, 1), np.uint8), y_test=np.zeros(images, np.int64))
    run = with_validation(tmp_path, replace(recipe, published="best"), few, [0.5, 0.75, 0.6, 0.72])
    assert run.best_epoch == epoch


@pytest.mark.parametrize(
    ("head", "accuracies", "epoch"),
    [(0.74, [0.5, 0.75, 0.6, 0.72], 1), (0.75, [0.5, 0.75, 0.6, 0.72], -1), (0.71, [0.5, 0.75, 0.6, 0.72], 3)],
)
def test_an_epoch_that_is_no_better_than_the_head_is_not_published(
    tmp_path: Path, recipe: Recipe, data: Dataset, head: float, accuracies: list[float], epoch: int
) -> None:
    """With 100 validation images the last epoch is as good as the best one."""
    few = replace(data, x_test=np.zeros((100, 4, 4, 1), np.uint8), y_test=np.zeros(100, np.int64))
    recipe = replace(recipe, published="best", epochs=4)
    run = with_validation(tmp_path, recipe, few, accuracies, head)
    assert run.best_epoch == epoch
    assert run.train_accuracy == (0.9 if epoch < 0 else 0.5)
    assert bias(run.published_model(run.restore())) == epoch
    again = Run.open(tmp_path, replace(recipe, epochs=5), few, resume=True)
    assert (again.head, again.best_epoch) == (run.head, epoch)
    assert bias(again.published_model(again.restore())) == epoch


def test_a_finished_run_is_not_trained_again(tmp_path: Path, recipe: Recipe, data: Dataset) -> None:
    run = begun(tmp_path, recipe, data, epochs=2)
    run.finish(run.restore(), {"version": 1}, "1")
    with pytest.raises(RunError, match="1 is finished with 2 epochs; --epochs with more continues it"):
        Run.open(tmp_path, recipe, data, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_enough_epochs_without_a_better_one_end_the_training(tmp_path: Path, recipe: Recipe, many: Dataset) -> None:
    recipe = replace(recipe, published="best", epochs=100, early_stopping=2)
    assert not with_validation(tmp_path / "a", recipe, many, [0.5, 0.7, 0.6]).done
    assert with_validation(tmp_path / "b", recipe, many, [0.5, 0.7, 0.6, 0.6]).done
    assert not with_validation(tmp_path / "c", replace(recipe, early_stopping=0), many, [0.7, 0.6, 0.6, 0.6]).done


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path: Path, recipe: Recipe, data: Dataset) -> None:
    run = begun(tmp_path, recipe, data)
    other = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(600)"
    )
    run._release()
    command = [sys.executable, "-c", other, str(tmp_path / f".{run.folder.name}.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"held\n"
            with pytest.raises(RunError, match="is being trained by another process"):
                Run.open(tmp_path, recipe, data, resume=True)
        finally:
            process.kill()
    assert len(Run.open(tmp_path, recipe, data, resume=True).seconds) == 1


# What cannot be resumed


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("batch_size", 64, "batch_size was 128, now 64"),
        ("seed", 3, "seed was 0, now 3"),
        ("validation", 0.2, "validation was test, now 0.2"),
        ("learning_rate", 0.1, "learning_rate was 0.001, now 0.1"),
        ("amsgrad", False, "amsgrad was True, now False"),
    ],
)
def test_other_hyper_parameters_are_refused_and_named(
    tmp_path: Path, recipe: Recipe, data: Dataset, field: str, value: Any, told: str
) -> None:
    begun(tmp_path, recipe, data)
    with pytest.raises(RunError, match=rf"cannot be resumed: {told}\. Leave out --resume"):
        Run.open(tmp_path, replace(recipe, **{field: value}), data, resume=True)


def test_other_data_is_refused(tmp_path: Path, recipe: Recipe, data: Dataset) -> None:
    begun(tmp_path, recipe, data)
    other = replace(data, y_test=data.y_test[::-1])
    with pytest.raises(RunError, match=f"data was {data.fingerprint()}, now {other.fingerprint()}"):
        Run.open(tmp_path, recipe, other, resume=True)


def test_more_epochs_may_be_asked_for_but_not_fewer_than_are_done(
    tmp_path: Path, recipe: Recipe, data: Dataset
) -> None:
    begun(tmp_path, recipe, data, epochs=2)
    assert len(Run.open(tmp_path, replace(recipe, epochs=9), data, resume=True).seconds) == 2
    with pytest.raises(RunError, match="has 2 epochs, more than --epochs 1"):
        Run.open(tmp_path, replace(recipe, epochs=1), data, resume=True)


def test_without_a_checkpoint_resuming_starts_anew_and_says_so(
    tmp_path: Path, recipe: Recipe, data: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unfinished-20200101-000000-1").mkdir()
    run = Run.open(tmp_path, recipe, data, resume=True)
    assert (run.seconds, run.checkpoint) == ([], None)
    assert f"nothing to resume under {tmp_path}" in capsys.readouterr().out


def test_a_new_run_beside_an_unfinished_one_mentions_it(
    tmp_path: Path, recipe: Recipe, data: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    old = begun(tmp_path, recipe, data)
    old.folder = old.folder.rename(tmp_path / "unfinished-20200101-000000-1")
    assert Run.open(tmp_path, recipe, data, resume=False).folder != old.folder
    assert "--resume would continue it" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, recipe: Recipe, data: Dataset) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=f"cannot write to {tmp_path}/file"):
        Run.open(tmp_path / "file", recipe, data, resume=False)


def test_the_seed_alone_decides_the_first_weights(tmp_path: Path, recipe: Recipe, data: Dataset) -> None:
    first, same, other = (
        Run(tmp_path, replace(recipe, seed=seed), data).restore().get_weights()[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_fingerprint_tells_order_and_labels_apart() -> None:
    digits = load("digits")
    order = np.arange(len(digits.x_train))[::-1]
    turned = replace(digits, x_train=digits.x_train[order], y_train=digits.y_train[order])
    assert len({digits.fingerprint(), turned.fingerprint(), replace(digits, y_train=turned.y_train).fingerprint()}) == 3
    assert replace(digits, name="other").fingerprint() == digits.fingerprint()
