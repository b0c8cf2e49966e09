"""An interrupted training's checkpoint and history, and what a finished one keeps: everything under runs/.

A run's folder is `runs/MODEL/unfinished-…` while it trains and `runs/MODEL/VERSION` once that version is published.
Knows how to write and read a run, not how to train one.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from training.data.dataset import Dataset
from training.networks.network import build
from training.networks.table import NETWORKS
from training.recipes.recipe import Recipe
from training.runs.plots import plot_confusion, plot_curves


class RunError(RuntimeError):
    """The run cannot start or continue; the message says why."""


class Run:
    """A run's folder: its last checkpoint and history while it trains, weights and plots once it is done."""

    def __init__(self, folder: Path, recipe: Recipe, data: Dataset):
        self.folder = folder
        self.recipe = recipe
        self.data = data
        self.identity = {**recipe.hyper_parameters(), "epochs": None, "data": data.fingerprint()}
        self.history: dict[str, list[float]] = {}
        self.seconds: list[float] = []
        self.checkpoint: Path | None = None

    @classmethod
    def open(cls, runs: Path, recipe: Recipe, data: Dataset, resume: bool) -> "Run":
        """A new unfinished folder under `runs`, or with `resume` the newest one that has a checkpoint."""
        unfinished = sorted(runs.glob("unfinished-*/state.json"))
        if resume and unfinished:
            run = cls(unfinished[-1].parent, recipe, data)
            run._load()
            return run
        if resume:
            print(f"nothing to resume under {runs}: starting from the beginning")
        elif unfinished:
            print(f"note: {unfinished[-1].parent} is unfinished; --resume would continue it. Starting a new run.")
        folder = runs / f"unfinished-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        try:
            folder.mkdir(parents=True)
        except OSError as err:
            raise RunError(f"cannot write to {runs}: {err}") from err
        return cls(folder, recipe, data)

    def _load(self) -> None:
        state = json.loads((self.folder / "state.json").read_text())
        different = [key for key, value in self.identity.items() if state["identity"].get(key) != value]
        if different:
            told = ", ".join(f"{key} was {state['identity'].get(key)}, now {self.identity[key]}" for key in different)
            raise RunError(f"{self.folder} cannot be resumed: {told}. Leave out --resume to start again")
        if len(state["seconds"]) > self.recipe.epochs:
            raise RunError(f"{self.folder} has {len(state['seconds'])} epochs, more than --epochs {self.recipe.epochs}")
        self.history, self.seconds = state["history"], state["seconds"]
        self.checkpoint = self.folder / state["checkpoint"]

    def restore(self) -> keras.Model:
        """The checkpointed model with its optimizer's state, or a new one initialised from the seed."""
        if self.checkpoint:
            return keras.saving.load_model(self.checkpoint)
        keras.utils.set_random_seed(self.recipe.seed)
        network = NETWORKS[self.recipe.network]
        model = build(network, self.data.input_shape, len(self.data.labels), self.recipe.network)
        self.recipe.compile(model)
        return model

    def save(self, model: keras.Model, figures: dict[str, float], seconds: float) -> None:
        """Checkpoint the epoch just trained. state.json is replaced last: it never names a half-written file."""
        for key, value in figures.items():
            self.history.setdefault(key, []).append(value)
        self.seconds.append(seconds)
        previous, self.checkpoint = self.checkpoint, self.folder / f"epoch-{len(self.seconds):03}.keras"
        model.save(self.checkpoint)
        state = {
            "identity": self.identity,
            "history": self.history,
            "seconds": self.seconds,
            "checkpoint": self.checkpoint.name,
        }
        _replace_text(self.folder / "state.json", json.dumps(state, indent=2))
        if previous:
            previous.unlink(missing_ok=True)

    def finish(self, model: keras.Model, record: dict[str, Any], version: str) -> None:
        """Write weights, record and plots, and rename the folder to the version that was published."""
        title = f"{self.recipe.model_name} version {version}"
        model.save(self.folder / "model.keras")
        _replace_text(self.folder / "run.json", json.dumps(record, indent=2) + "\n")
        plot_curves(self.history, title, self.folder / "curves.png")
        plot_confusion(np.array(record["confusion"]), self.data.labels, title, self.folder / "confusion.png")
        (self.folder / "state.json").unlink(missing_ok=True)
        for checkpoint in self.folder.glob("epoch-*.keras"):  # an interruption may have left more than the last
            checkpoint.unlink()
        target = self.folder.parent / version
        if target.exists():  # published to another --output before: keep both
            target = target.with_name(self.folder.name.replace("unfinished", version))
        self.folder = self.folder.rename(target)
        print(f"run record, weights and plots: {self.folder}")


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
