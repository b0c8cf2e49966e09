"""Probabilities and labels -> the metrics of a card; and `python -m training.evaluate MODEL --data …`.

The command measures a published artifact again with ONNX Runtime on the CPU, without a server, and says whether it
still agrees with its card. Knows nothing of how the model was trained.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.datasets import DatasetError, load

CALIBRATION_BINS = 15
TOLERANCE = 0.001  # of accuracy: 0.1 points


def measure(probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """The `metrics` of card.json from probabilities (N, K) float and targets (N,) int.

    `accuracy` is categorical accuracy; `per_class_accuracy` is recall, None for a class without test images.
    """
    predicted = probabilities.argmax(axis=1)
    hits = predicted == targets
    return {
        "accuracy": float(hits.mean()),
        "loss": binary_crossentropy(probabilities, targets),
        "calibration_error": calibration_error(probabilities.max(axis=1), hits),
        "per_class_accuracy": {
            label: float(hits[targets == k].mean()) if (targets == k).any() else None for k, label in enumerate(labels)
        },
    }


def binary_crossentropy(probabilities: np.ndarray, targets: np.ndarray, epsilon: float = 1e-7) -> float:
    """Mean binary cross-entropy over all N·K outputs against one-hot targets, clipped as Keras does."""
    one_hot = np.eye(probabilities.shape[1])[targets]
    p = np.clip(probabilities.astype(np.float64), epsilon, 1 - epsilon)
    return float(-(one_hot * np.log(p) + (1 - one_hot) * np.log1p(-p)).mean())


def binary_accuracy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Share of the N·K outputs on the right side of 0.5: what old Keras reported as "accuracy" with this loss."""
    one_hot = np.eye(probabilities.shape[1])[targets]
    return float(((probabilities > 0.5) == one_hot).mean())


def calibration_error(confidence: np.ndarray, hits: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, eq. 3), in [0, 1]."""
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    error = 0.0
    for b in np.unique(index):
        inside = index == b
        error += inside.mean() * abs(float(hits[inside].mean()) - float(confidence[inside].mean()))
    return float(error)


def confusion_matrix(predicted: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts: rows are the true class, columns the predicted one."""
    return np.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def latest_version(path: Path) -> Path:
    """The artifact folder itself, or the highest version inside a model's folder."""
    if (path / "card.json").is_file():
        return path
    versions = [p for p in path.iterdir() if p.name.isdecimal()] if path.is_dir() else []
    if not versions:
        raise FileNotFoundError(f"{path}: neither an artifact (card.json) nor a model's folder with versions")
    return max(versions, key=lambda p: int(p.name))


def run_onnx(path: Path, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """Probabilities (N, K) of an artifact's model.onnx for images (N, H, W, C) uint8, on the CPU provider."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    batches = [images[i : i + batch] for i in range(0, len(images), batch)]
    return np.concatenate([session.run(["probabilities"], {"image": part})[0] for part in batches])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description="Measure an artifact again.")
    parser.add_argument("model", type=Path, help="models/NAME (its latest version) or models/NAME/VERSION")
    parser.add_argument("--dataset", help="mnist, cifar10 or digits (default: the one in the card)")
    parser.add_argument("--data", type=Path, help="an .npz with Keras' keys, or a folder of images")
    parser.add_argument("--seed", type=int, help="splits a folder without a test split (default: the recipe's)")
    args = parser.parse_args(argv)
    try:
        path = latest_version(args.model)
        card = json.loads((path / "card.json").read_text())
        if not (path / "model.onnx").is_file():
            raise FileNotFoundError(f"{path}: has no model.onnx")
        height, width, _ = card["input_shape"]
        seed = args.seed if args.seed is not None else (card.get("recipe") or {}).get("seed", 0)
        data = load(
            args.dataset or (None if args.data else card["dataset"]["name"]),
            args.data,
            seed=seed,
            labels=tuple(card["labels"]),
            image_size=height if height == width else None,
        )
        if list(data.input_shape) != card["input_shape"]:
            raise DatasetError(f"the model takes images of shape {card['input_shape']}, got {list(data.input_shape)}")
    except (DatasetError, OSError, KeyError, json.JSONDecodeError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    metrics = measure(run_onnx(path, data.x_test), data.y_test, card["labels"])
    print(json.dumps(metrics, indent=2))
    recorded = (card.get("metrics") or {}).get("accuracy")
    if recorded is None:
        print("the card records no accuracy to compare with")
        return 0
    agrees = abs(metrics["accuracy"] - recorded) <= TOLERANCE
    print(f"accuracy {metrics['accuracy']:.4f}, the card says {recorded:.4f}: {'agrees' if agrees else 'DIFFERS'}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
