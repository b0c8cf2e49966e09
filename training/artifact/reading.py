"""Published artifacts, read again: which version is the latest, and what ONNX Runtime answers on the CPU."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.data.dataset import batch_for


def latest_version(path: Path, recipe: str | None = None) -> Path:
    """The artifact folder itself, or the highest version inside a model's folder, of those that this recipe trained.
    Raises FileNotFoundError."""
    if (path / "card.json").is_file():
        return path
    versions = [p for p in path.iterdir() if p.name.isdecimal()] if path.is_dir() else []
    if recipe is not None:
        cards = {version: json.loads((version / "card.json").read_text()) for version in versions}
        versions = [version for version, card in cards.items() if recipe_name(card) == recipe]
    if not versions:
        trained = f" that the recipe {recipe} trained" if recipe else ""
        raise FileNotFoundError(f"{path}: neither an artifact (card.json) nor a model's folder with versions{trained}")
    return max(versions, key=lambda p: int(p.name))


def recipe_name(card: dict[str, Any]) -> str | None:
    """The recipe of a card or of a run's record; None where the model was trained elsewhere."""
    recipe = card["recipe"]
    return None if recipe is None else recipe.get("name", "notebook")  # those from before recipes had names


def run_onnx(path: Path, images: np.ndarray, progress: Callable[[int], None] = lambda done: None) -> np.ndarray:
    """Probabilities (N, K) of an artifact's model.onnx for images (N, H, W, C) uint8, on the CPU provider.

    `progress` is told after each batch how many images are answered.
    """
    return run_outputs(path, images, ("probabilities",), progress)[0]


def run_outputs(
    path: Path, images: np.ndarray, names: Sequence[str], progress: Callable[[int], None] = lambda done: None
) -> list[np.ndarray]:
    """The outputs of these names, each with a row for each image; otherwise as `run_onnx`."""
    session = cpu_session(path / "model.onnx")
    batch = batch_for(images.shape[1:])
    answers = []
    for i in range(0, len(images), batch):
        answers.append(session.run(list(names), {"image": images[i : i + batch]}))
        progress(min(i + batch, len(images)))
    return [np.concatenate(parts) for parts in zip(*answers, strict=True)]


def cpu_session(path: Path) -> Any:
    """An `onnxruntime.InferenceSession` of a file on the CPU provider. Its threads sleep while there is nothing to do.

    Waiting in a loop, as they do by default, took half as much processor time again for 224x224 pixels, and no less
    time.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
