"""Probabilities and labels -> the metrics of a card. Knows nothing of how the model was trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np

CALIBRATION_BINS = 15


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


def mean_recall(predicted: np.ndarray, targets: np.ndarray) -> float:
    """The recalls' mean over the classes that `targets` (N,) holds: each counts alike, however many images it has."""
    return float(np.mean([(predicted[targets == k] == k).mean() for k in np.unique(targets)]))


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
    index = bins_of(confidence, bins)
    error = 0.0
    for b in np.unique(index):
        inside = index == b
        error += inside.mean() * abs(float(hits[inside].mean()) - float(confidence[inside].mean()))
    return float(error)


def bins_of(confidence: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """The index (N,) of each confidence's bin, of equal width; a bin holds its upper edge."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def confusion_matrix(predicted: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts: rows are the true class, columns the predicted one."""
    return np.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)
