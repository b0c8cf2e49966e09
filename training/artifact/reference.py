"""Validation answers -> the card's `reference`: what a service that sees such pictures would count.

A service compares with it what it sees (Rabanser et al. 2018, 1810.11953: drift shows best in a classifier's own
answers). The bounds are those of its histograms (`serving/operations/metrics.py`); a test keeps them alike.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
UNFAMILIARITIES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)  # thresholds


def reference(
    probabilities: np.ndarray, labels: Sequence[str], unfamiliarity: np.ndarray | None = None, threshold: float = 1.0
) -> dict[str, Any]:
    """From probabilities (N, K) and unfamiliarities (N,) of validation pictures; every share is in [0, 1].

    `labels` holds the share of each most probable class. The two others are cumulative: the share that is at most
    each bound, of the best probability and of the unfamiliarity divided by its `threshold`.
    """
    counts = np.bincount(probabilities.argmax(axis=1), minlength=len(labels))
    shares: dict[str, Any] = {
        "labels": dict(zip(labels, _rounded(counts / len(probabilities)), strict=True)),
        "probability": _cumulative(probabilities.max(axis=1), PROBABILITIES),
    }
    if unfamiliarity is not None and threshold:
        shares["unfamiliarity"] = _cumulative(unfamiliarity / threshold, UNFAMILIARITIES)
    return shares


def _cumulative(values: np.ndarray, bounds: Sequence[float]) -> dict[str, float]:
    shares = [float((values.astype(np.float32) <= np.float32(bound)).mean()) for bound in bounds]
    return {str(bound): share for bound, share in zip(bounds, _rounded(np.array(shares)), strict=True)}


def _rounded(shares: np.ndarray) -> list[float]:
    return [round(float(share), 6) for share in shares]
