"""What a test showed -> what a person does next: a verdict in one sentence, commands, the pairs that are confused.

Knows answers and numbers only; `report.py` makes a page of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.artifact.trust import WHOLE

WIDE = 0.1  # of an interval of the accuracy: above, more test pictures are worth more than anything else
GOOD = 0.8  # an accuracy from which on a first model is worth serving
NEAR = 0.2  # between the two most probable classes: less is doubt
PAIRS = 12


@dataclass(frozen=True)
class Earlier:
    """What an earlier version answers about the same test pictures: `probabilities` (N, K)."""

    version: int
    probabilities: np.ndarray


def verdict(record: dict[str, Any], targets: np.ndarray) -> str:
    """One sentence of figures and one of advice. `targets` (N,) are the classes of the test pictures."""
    count = len(targets)
    right = round(record["metrics"]["accuracy"] * count)
    low, high = record["intervals"]["accuracy"]
    most = int(np.bincount(targets).max())
    sentence = f"{right:,} of {count:,} test pictures are right."
    longer = "train for more epochs" if record["training"]["epochs"] else WHOLE
    if low <= most / count:
        return (
            f"{sentence} Always answering the most frequent class would get {most:,}: this model is of no use yet. "
            f"Look whether the labels are right, add pictures, or {longer}."
        )
    sentence += f" With pictures like these, {_hundreds(low, high)} of 100 will be right."
    if high - low > WIDE:
        return f"{sentence} That is a wide range: add test pictures."
    if record["metrics"]["accuracy"] < GOOD:
        return f"{sentence} Add training pictures of the classes that are confused."
    return f"{sentence} Serve it."


def _hundreds(low: float, high: float) -> str:
    first, last = int(100 * low), min(100, int(-(-100 * high // 1)))
    return f"{first}" if first == last else f"{first} to {last}"


def commands(record: dict[str, Any], models: Path) -> list[tuple[str, str]]:
    """What to do next, and the command that does it. `models` is the folder that the artifact is in."""
    name, version = record["model"], record["version"]
    place = "" if models == Path("models") else f"SHORTCUT_MODELS={models} "
    return [
        ("Serve it", f"{place}SHORTCUT_DEFAULT_MODEL={name} make serve"),
        (
            "Measure it on other pictures, in a folder for each class",
            f".venv-dev/bin/python -m training.evaluate {models / name / str(version)} --data more/ --csv answers.csv",
        ),
        (
            f"Add pictures, and train again with the same command: it writes version {version + 1}. Go back by",
            f"{place}SHORTCUT_VERSIONS={name}:{version} make serve",
        ),
    ]


def confused(confusion: np.ndarray, labels: Sequence[str]) -> list[tuple[str, str, str]]:
    """The pairs that are confused most: the true class, what it was taken for, and how often. `confusion` (K, K) counts
    true classes in its rows."""
    wrong = confusion * (1 - np.eye(len(labels), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [divmod(int(at), len(labels)) for at in order if wrong.flat[at]]
    return [(labels[i], labels[j], f"{wrong[i, j]:,} of {confusion[i].sum():,}") for i, j in pairs]


def doubtful(probabilities: np.ndarray, count: int) -> np.ndarray:
    """The pictures whose two most probable classes are near each other, the nearest first, at most `count`."""
    two = np.sort(probabilities, axis=1)[:, -2:]
    margin = two[:, 1] - two[:, 0]
    order = np.argsort(margin, kind="stable")
    return order[margin[order] < NEAR][:count]


def changes(earlier: Earlier, probabilities: np.ndarray, targets: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    """How an earlier version did on the same pictures, in a sentence; the pictures that got better, and worse."""
    before = earlier.probabilities.argmax(axis=1) == targets
    now = probabilities.argmax(axis=1) == targets
    better, worse = np.flatnonzero(now & ~before), np.flatnonzero(before & ~now)
    count = len(targets)
    sentence = (
        f"Version {earlier.version} gets {before.sum():,} of these {count:,} pictures right, this version "
        f"{now.sum():,}: {len(better):,} got better, {len(worse):,} got worse."
    )
    if abs(len(better) - len(worse)) <= 2 * np.sqrt(len(better) + len(worse)):  # McNemar 1947, at about 95 %
        sentence += " So small a difference may be chance."
    return f"{sentence} Version {earlier.version} may have learnt from some of them.", better, worse
