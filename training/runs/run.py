"""An interrupted training's checkpoint and history, and a finished one's weights and record, under runs/.

A run's folder is `runs/MODEL/unfinished-…` while it trains and `runs/MODEL/VERSION` once that version is published.
Knows how to write and read a run, not how to train one.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import time
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np

from training.data.dataset import Dataset
from training.networks.network import build
from training.networks.table import NETWORKS
from training.recipes.recipe import Recipe
from training.runs.parts import RunError, splits
from training.runs.transfer import joined, upper_part

ADAPTED = 5000  # training images that such layers see
ROUNDING = 1e-6  # of a share of images: Keras computes it in float32


class Run:
    """A run's folder: its last checkpoint and history while it trains, weights and record once it is done."""

    def __init__(self, folder: Path, recipe: Recipe, data: Dataset):
        self.folder = folder
        self.recipe = recipe
        self.data = data
        self.identity = {**recipe.hyper_parameters(), "epochs": None, "data": data.fingerprint()}
        if Path(recipe.weights).is_file():
            with Path(recipe.weights).open("rb") as file:
                self.identity["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
        self.history: dict[str, list[float]] = {}
        self.head: dict[str, float] = {}  # figures of a classifier that was fitted before the first epoch
        self.seconds: list[float] = []
        self.checkpoint: Path | None = None
        self.best: Path | None = None

    @classmethod
    def open(cls, runs: Path, recipe: Recipe, data: Dataset, resume: bool) -> "Run":
        """A new unfinished folder under `runs`, or with `resume` the newest one that has a checkpoint.

        Where none is unfinished, `resume` goes on with the newest finished run if that had fewer epochs. The run is
        locked for this process. Raises RunError.
        """
        unfinished = sorted(runs.glob("unfinished-*/state.json"))
        finished = sorted((p for p in runs.glob("[0-9]*/state.json")), key=lambda p: p.stat().st_mtime)
        if resume and unfinished:
            run = cls(unfinished[-1].parent, recipe, data)
            run._lock()
            run._load()
            return run
        if unfinished:
            print(f"note: {unfinished[-1].parent} is unfinished; --resume would continue it. Starting a new run.")
        run = cls(runs / f"unfinished-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}", recipe, data)
        if resume and finished:
            run._copy(finished[-1].parent)
        elif resume:
            print(f"nothing to resume under {runs}: starting from the beginning")
        try:
            run.folder.mkdir(parents=True, exist_ok=bool(run.seconds))
        except OSError as err:
            raise RunError(f"cannot write to {runs}: {err}") from err
        run._lock()
        return run

    @property
    def best_epoch(self) -> int:
        """The epoch to publish, from 0: the last one, or the last of those that are as good as the best. -1: the head.

        That is those whose validation accuracy lies within one standard error of the best epoch's: few validation
        images rank epochs by luck, and then the one that was trained for longer is the better guess. Where the recipe
        lets every class count alike, it is the mean recall: of 500 ships and 5 cats accuracy would choose an epoch
        that knows no cat. An epoch that is no better than the head, the classifier that was fitted before the first
        one, is none of them.
        """
        last = len(self.seconds) - 1
        if self.recipe.published == "last":
            return last
        targets = splits(self.recipe, self.data)[1][1]
        recalls = self.history.get("val_mean_recall", ())
        if len(recalls) == len(self.seconds):
            measure, counts = "val_mean_recall", np.unique(targets, return_counts=True)[1]
        else:  # a run from before mean recall was kept, too
            measure, counts = "val_categorical_accuracy", np.array([len(targets)])
        figures = np.array(self.history[measure])
        shares = (figures.max() * counts + 1) / (counts + 2)  # of a perfect score, too, not all is certain
        error = math.sqrt((shares * (1 - shares) / counts).sum()) / len(counts)
        better = figures > self.head.get(measure, -math.inf) + ROUNDING
        good = np.flatnonzero(better & (figures >= figures.max() - error))
        return int(good[-1]) if len(good) else -1

    @property
    def train_accuracy(self) -> float:
        """That of what is published."""
        of_epochs = self.history["categorical_accuracy"]
        return of_epochs[self.best_epoch] if self.best_epoch >= 0 else self.head["categorical_accuracy"]

    @property
    def done(self) -> bool:
        """Whether all epochs are trained, or as many without a better one as end the training early."""
        count, patience = len(self.seconds), self.recipe.early_stopping
        return count >= self.recipe.epochs or bool(patience and count and count - 1 - self.best_epoch >= patience)

    def _lock(self) -> None:
        """Hold the run for this process until it ends or the run is finished. Raises RunError if another holds it."""
        lock = os.open(self.folder.with_name(f".{self.folder.name}.lock"), os.O_RDWR | os.O_CREAT)
        self._release = weakref.finalize(self, os.close, lock)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise RunError(f"{self.folder} is being trained by another process") from err

    def _copy(self, finished: Path) -> None:
        """Take up a finished run, to train it for more epochs. Raises RunError if there is nothing left to train."""
        target, self.folder = self.folder, finished
        self._load()
        if self.done:
            raise RunError(f"{finished} is finished with {len(self.seconds)} epochs; --epochs with more continues it")
        try:
            shutil.copytree(finished, target)
        except OSError as err:
            raise RunError(f"cannot write to {target.parent}: {err}") from err
        self.folder = target
        self._load()

    def _load(self) -> None:
        state = json.loads((self.folder / "state.json").read_text())
        different = [key for key, value in self.identity.items() if state["identity"].get(key) != value]
        if different:
            differences = ", ".join(
                f"{key} was {state['identity'].get(key)}, now {self.identity[key]}" for key in different
            )
            raise RunError(f"{self.folder} cannot be resumed: {differences}. Leave out --resume to start again")
        if len(state["seconds"]) > self.recipe.epochs:
            raise RunError(f"{self.folder} has {len(state['seconds'])} epochs, more than --epochs {self.recipe.epochs}")
        self.history, self.seconds, self.head = state["history"], state["seconds"], state.get("head", {})
        self.checkpoint = self.folder / state["checkpoint"]
        self.best = self.folder / state.get("best", state["checkpoint"])

    def restore(self) -> keras.Model:
        """The checkpointed model with its optimizer's state, or a new one initialised from the seed.

        Where the recipe freezes layers it is the part above them.
        """
        if self.checkpoint:
            return keras.saving.load_model(self.checkpoint)
        keras.utils.set_random_seed(self.recipe.seed)
        model = self.new_model(self.recipe.precision)
        for layer in model.layers:
            if hasattr(layer, "adapt"):  # Keras' name for weights that are computed from training images, not learnt
                layer.adapt(splits(self.recipe, self.data)[0][0][:ADAPTED])
        if self.recipe.frozen:
            model = upper_part(model, self.recipe.frozen)
        self.recipe.compile(model)
        return model

    def new_model(self, precision: str = "float32") -> keras.Model:
        """A whole model that computes in `precision`, with the weights that the recipe begins with."""
        name = self.recipe.network
        network = NETWORKS[name]
        model = build(network, self.data.input_shape, len(self.data.labels), name, precision)
        if self.recipe.weights and network.pretrained:
            network.pretrained(model, self.recipe.weights)
        return model

    def save_head(self, model: keras.Model, figures: dict[str, float]) -> None:
        """Keep a classifier that was fitted before the first epoch, and the figures that epochs have to beat."""
        self.head, self.best = figures, self.folder / "epoch-000.keras"
        model.save(self.best)

    def save(self, model: keras.Model, figures: dict[str, float], seconds: float) -> None:
        """Checkpoint the epoch just trained. state.json is replaced last: it never names a half-written file."""
        for key, value in figures.items():
            self.history.setdefault(key, []).append(value)
        self.seconds.append(seconds)
        before = {self.checkpoint, self.best}
        self.checkpoint = self.folder / f"epoch-{len(self.seconds):03}.keras"
        model.save(self.checkpoint)
        if self.best_epoch == len(self.seconds) - 1:
            self.best = self.checkpoint
        state = {
            "identity": self.identity,
            "history": self.history,
            "head": self.head,
            "seconds": self.seconds,
            "checkpoint": self.checkpoint.name,
            "best": self.best.name if self.best else None,
        }
        _replace_text(self.folder / "state.json", json.dumps(state, indent=2))
        for path in before - {self.checkpoint, self.best}:
            if path:
                path.unlink(missing_ok=True)

    def discard_untrained(self) -> None:
        """Remove the folder of a run that ends without an epoch: there is nothing to resume in it."""
        if not self.seconds:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._release()
            self.folder.with_name(f".{self.folder.name}.lock").unlink(missing_ok=True)

    def published_model(self, model: keras.Model) -> keras.Model:
        """The model of the epoch to publish, in float32, where `model` is that of the last one."""
        if self.best not in (None, self.checkpoint):
            model = keras.saving.load_model(self.best)
        if self.recipe.frozen or self.recipe.precision != "float32":
            model = joined(self.new_model(), model)
        return model

    def finish(self, model: keras.Model, record: dict[str, Any], version: str) -> None:
        """Write weights and record, and rename the folder to the version that was published.

        The last epoch's weights stay beside the published ones, so that more epochs can continue the run.
        """
        model.save(self.folder / "model.keras")
        _replace_text(self.folder / "run.json", json.dumps(record, indent=2) + "\n")
        state = json.loads((self.folder / "state.json").read_text())
        state["best"] = state["checkpoint"] = "model.keras"
        changed = self.recipe.precision != "float32" or self.recipe.frozen or self.recipe.calibrated
        if self.checkpoint and (self.best != self.checkpoint or changed):
            self.checkpoint.replace(self.folder / "last.keras")
            state["checkpoint"] = "last.keras"
        _replace_text(self.folder / "state.json", json.dumps(state, indent=2))
        for leftover in (*self.folder.glob("epoch-*.keras"), *self.folder.glob("*.float16")):
            leftover.unlink()  # of an interruption, and what frozen layers made of the images
        target = self.folder.parent / version
        if target.exists():  # published to another --output before: keep both
            target = target.with_name(self.folder.name.replace("unfinished", version))
        self._release()
        self.folder.with_name(f".{self.folder.name}.lock").unlink(missing_ok=True)
        self.folder = self.folder.rename(target)
        print(f"run record, weights, plots and report.html: {self.folder}")


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
