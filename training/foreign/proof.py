"""The graph that is published, beside the original: on drawn pictures, on an author's own, and on labelled ones.

Says by how much two answers differ and what was measured. Publishes nothing and changes no graph.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.artifact.calibration import calibration, threshold
from training.artifact.errors import ExportError
from training.artifact.exactness import LEAST, agreement, limit_for
from training.artifact.metrics import measure
from training.artifact.trust import warnings_of, wilson_interval
from training.data.dataset import DatasetError, batch_for
from training.data.listing import list_folder, some
from training.data.pictures import decode
from training.foreign.resizing import Resizing

Answer = Callable[[np.ndarray], np.ndarray]

NOT_MEASURED = "nobody measured this model here: --check FOLDER measures it on labelled pictures at publishing"


def exactness(
    answers: np.ndarray, reference: np.ndarray, spread: np.ndarray | None, what: str = "the served graph"
) -> dict[str, float]:
    """The card's `exactness`: how far two answers (n, K) to the same pictures may differ, and differ.

    `spread` (n,) is how far rounding moves the answers, None where nobody measured it. Raises ExportError unless all
    probabilities are within the limit, and the best class is the same wherever it leads by more.
    """
    limit = LEAST if spread is None else limit_for(spread)
    difference, changed = agreement(answers, reference, limit)
    if not difference <= limit or changed:
        raise ExportError(
            f"{what} disagrees with the original: largest difference {difference:.2g} (limit {limit:.2g}), "
            f"{changed} of {len(answers)} answers changed; nothing was published"
        )
    measured = {} if spread is None else {"spread": float(spread.max())}
    return {"float32_limit": limit, **measured, "difference": difference}


def expectations(texts: Sequence[str], labels: Sequence[str]) -> list[tuple[Path, int]]:
    """`picture.jpg=label` -> the file and the label's index. Raises ExportError."""
    expected = []
    for text in texts:
        file, equals, label = text.rpartition("=")
        if not equals or not file:
            raise ExportError(f"--expect takes picture.jpg=label, got {text!r}")
        if label not in labels:
            raise ExportError(f"--expect {text}: {label!r} is none of the {len(labels)} labels")
        if not Path(file).is_file():
            raise ExportError(f"--expect {file}: no such file")
        expected.append((Path(file), list(labels).index(label)))
    return expected


def _opened(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except Exception as err:  # Pillow's plugins raise what they like on damaged files
        raise ExportError(f"{file}: not a readable picture ({' '.join(str(err).split())})") from err


def labelled(folder: Path, labels: Sequence[str]) -> tuple[list[Path], np.ndarray, list[str]]:
    """The pictures of a folder of classes, or of its test split, their labels' indices, and what is odd about them.

    Classes are matched by name: each folder's must be one of `labels`, or its number. Raises ExportError.
    """
    try:
        listing = list_folder(folder, 0)
    except (DatasetError, OSError) as err:
        raise ExportError(f"--check {folder}: {' '.join(str(err).split())}") from err
    names = listing.labels
    index = {label: i for i, label in enumerate(labels)}
    numbers = {str(i): i for i in range(len(labels))}
    table = index if set(names) <= set(index) else numbers
    if unknown := [name for name in names if name not in table]:
        raise ExportError(f"--check {folder}: no labels of the model: {some(unknown)} (it has {some(list(labels))})")
    files = listing.test if not listing.set_aside else sorted([*listing.train, *listing.test])
    return [file for file, _ in files], np.array([table[names[i]] for _, i in files]), listing.notes


def measurement(probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str], folder: Path) -> dict[str, Any]:
    """The card's keys that labelled pictures tell: accuracy, calibration, threshold, and what makes them doubtful."""
    metrics = measure(probabilities, targets, labels)
    keys = {
        "metrics": metrics,
        "intervals": {"accuracy": wilson_interval(metrics["accuracy"], len(targets))},
        "calibration": calibration(probabilities, probabilities, targets, 1.0),
        "warnings": warnings_of(probabilities, targets, labels, metrics["accuracy"]),
        "checked": {"origin": f"folder {folder.resolve().name}", "images": len(targets)},
    }
    if (sure := threshold(probabilities, targets)) is not None:
        keys["threshold"] = sure
    return keys


def proven(
    expect: Sequence[str],
    check: Path | None,
    answer: Answer,
    original: Answer,
    resizing: Resizing,
    card: dict[str, Any],
    shape: tuple[int, int, int],
    labels: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The card's keys that pictures prove: those that must come out right, and those that measure the model.

    `answer` is the published graph and `original` the network's own runtime, both (n, H, W, C) uint8 -> (n, K). The
    first gets pictures as the service decodes them by `card`, the second as Pillow does. Raises ExportError.
    """
    keys: dict[str, Any] = {}
    if shown := expectations(expect, labels):
        ours = np.stack([_decoded(file, shape, card) for file, _ in shown])
        theirs = np.stack([resizing.of(_opened(file), shape) for file, _ in shown])
        _check_shown(shown, answer(ours), original(theirs), labels)
        say(f"{len(shown)} shown {'picture comes' if len(shown) == 1 else 'pictures come'} out right")
        keys["shown"] = [{"file": file.name, "label": labels[target]} for file, target in shown]
    if check is None:
        say(f"warning: {NOT_MEASURED}")
        return keys | {"warnings": [NOT_MEASURED]}
    files, targets, notes = labelled(check, labels)
    for note in notes:
        say(note)
    part = batch_for(shape)
    answers = [
        answer(np.stack([_decoded(file, shape, card) for file in files[start : start + part]]))
        for start in range(0, len(files), part)
    ]
    keys |= measurement(np.concatenate(answers), targets, labels, check)
    keys["dataset"] = card["dataset"] | {"test": len(files)}
    accuracy, (low, high) = keys["metrics"]["accuracy"], keys["intervals"]["accuracy"]
    say(f"accuracy {accuracy:.4f} ({low:.2f} to {high:.2f}) on {len(files):,} pictures of {check}")
    for warning in keys["warnings"]:
        say(f"warning: {warning}")
    return keys


def _check_shown(
    shown: Sequence[tuple[Path, int]], served: np.ndarray, original: np.ndarray, labels: Sequence[str]
) -> None:
    """Raise ExportError unless each picture that the author shows comes out as its label, by both ways.

    `served` (n, K) are the answers of the published graph to pictures that the service's decoder prepared, `original`
    those of the network's own runtime to pictures that Pillow prepared.
    """
    for (file, target), answer, own in zip(shown, served, original, strict=True):
        best, probability = int(answer.argmax()), float(answer.max())
        if best != target:
            answer_text = f"{labels[best]} ({probability:.2f}), not {labels[target]} ({float(answer[target]):.2f})"
            theirs = "as does the original" if int(own.argmax()) == best else "the original does not"
            hint = "try another --input-range, --resize, --channel-order or order of --labels"
            raise ExportError(f"--expect {file}: the answer is {answer_text}, {theirs}: {hint}; nothing was published")


def _decoded(file: Path, shape: tuple[int, int, int], card: dict[str, Any]) -> np.ndarray:
    """A picture's file as the service decodes it by the card's convention."""
    mode, size = "L" if shape[2] == 1 else "RGB", (shape[1], shape[0])
    how = card["input_convention"], card.get("resample", "bilinear"), card.get("resize_to"), card.get("pad_fill", 0)
    try:
        return decode(file, mode, size, *how)
    except DatasetError as err:
        raise ExportError(" ".join(str(err).split())) from err
