"""Published artifacts, read again: which version is the latest, and what ONNX Runtime answers on the CPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from training.data.dataset import batch_for


def latest_version(path: Path) -> Path:
    """The artifact folder itself, or the highest version inside a model's folder."""
    if (path / "card.json").is_file():
        return path
    versions = [p for p in path.iterdir() if p.name.isdecimal()] if path.is_dir() else []
    if not versions:
        raise FileNotFoundError(f"{path}: neither an artifact (card.json) nor a model's folder with versions")
    return max(versions, key=lambda p: int(p.name))


def run_onnx(path: Path, images: np.ndarray, progress: Callable[[int], None] = lambda done: None) -> np.ndarray:
    """Probabilities (N, K) of an artifact's model.onnx for images (N, H, W, C) uint8, on the CPU provider.

    `progress` is told after each batch how many images are answered.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    batch = batch_for(images.shape[1:])
    answers = []
    for i in range(0, len(images), batch):
        answers += session.run(["probabilities"], {"image": images[i : i + batch]})
        progress(min(i + batch, len(images)))
    return np.concatenate(answers)
