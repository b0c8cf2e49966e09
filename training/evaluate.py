"""`python -m training.evaluate MODEL --data …`: measure a published artifact again, without a server.

ONNX Runtime runs it on the CPU; the command says whether the artifact still agrees with its card.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.artifact.metrics import measure
from training.artifact.reading import latest_version, run_onnx
from training.artifact.trust import by_class
from training.data.contents import unseen
from training.data.dataset import Dataset, DatasetError, first_line
from training.data.files import Form
from training.data.loading import load
from training.data.rows import write_csv
from training.data.table import Columns

TOLERANCE = 0.001  # of accuracy: 0.1 points


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description="Measure an artifact again.")
    parser.add_argument("model", type=Path, help="models/NAME (its latest version) or models/NAME/VERSION")
    parser.add_argument("--dataset", help="mnist, cifar10 or digits (default: the one in the card)")
    parser.add_argument("--data", type=Path, help="an .npz with Keras' keys, a CSV file,label, or a folder of images")
    parser.add_argument("--seed", type=int, help="splits a folder without a test split (default: the recipe's)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where fit kept its runs (default: runs)")
    parser.add_argument("--file-column", metavar="NAME", help="of a CSV (default: file, or a common name of it)")
    parser.add_argument("--label-column", metavar="NAME", help="of a CSV (default: label, or a common name of it)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each picture of a folder or CSV")
    args = parser.parse_args(argv)
    try:
        path = latest_version(args.model)
        card, form = _stated(path)
        if args.csv:
            _check_csv(args.csv)
        height, width, _ = form.shape
        seed = args.seed if args.seed is not None else (card.get("recipe") or {}).get("seed", 0)
        size = height if height == width else None
        own, labels = card["dataset"]["name"], tuple(card["labels"])
        name = args.dataset or (None if args.data else own)
        columns = Columns(args.file_column, args.label_column)
        data = load(name, args.data, seed=seed, labels=labels, image_size=size, columns=columns, form=form)
        if list(data.input_shape) != card["input_shape"]:
            raise DatasetError(f"the model takes images of shape {card['input_shape']}, got {list(data.input_shape)}")
        if args.csv and not data.files:
            raise DatasetError("--csv takes pictures that are files: --data FOLDER, or a CSV file,label")
    except (DatasetError, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    images, targets, files, which = _to_measure(data, own, args.runs / path.parent.name / path.name)
    if not len(images):
        print(f"error: the model was trained on all {len(data.x_train):,} images of {data.origin}", file=sys.stderr)
        return 1
    try:
        probabilities = run_onnx(path, images, _progress(len(images)))
    except Exception as err:  # ONNX Runtime has classes of its own for files that it cannot read, and for graphs
        print(f"error: {path / 'model.onnx'}: cannot be run ({first_line(err)})", file=sys.stderr)
        return 1
    metrics = measure(probabilities, targets, labels)
    measured_on = f"on {len(images):,} {which} of {data.origin}"
    if files:
        predicted = probabilities.argmax(axis=1)
        group_of = dict(zip(data.files, data.groups, strict=True)) if data.groups else {}
        groups = [group_of[file] for file in files] if group_of else []
        print(*data.notes, _table(targets, predicted, labels, groups), sep="\n")
        print(f"loss {metrics['loss']:.4f}, calibration error {metrics['calibration_error']:.4f}")
    else:
        print(json.dumps(metrics, indent=2))
    if args.csv:
        try:
            _write_csv(args.csv, files, targets, probabilities, labels)
        except OSError as err:
            print(f"error: {args.csv}: cannot be written ({err.strerror})", file=sys.stderr)
            return 1
        print(f"wrote {args.csv}: {len(files):,} pictures")
    recorded = (card.get("metrics") or {}).get("accuracy")
    if recorded is None:
        print(f"measured {measured_on}; the card records no accuracy to compare with")
        return 0
    line = f"accuracy {metrics['accuracy']:.4f} {measured_on}, the card says {recorded:.4f}"
    if data.name != own:  # the card speaks of other pictures: nothing to agree with
        print(f"{line} on {own}")
        return 0
    if files and len(images) != (tested := card["dataset"]["test"]):
        print(f"{line} on {tested:,} test images: the pictures are not the same any more")
        return 0
    agrees = abs(metrics["accuracy"] - recorded) <= TOLERANCE
    print(f"{line}: {'agrees' if agrees else 'DIFFERS'}")
    return 0 if agrees else 1


def _stated(path: Path) -> tuple[dict[str, Any], Form]:
    """The card of a version, and the form of the pictures that it takes. Raises OSError and DatasetError."""
    try:
        card = json.loads((path / "card.json").read_text())
        form = Form.of_card(card)
        _ = card["labels"], card["dataset"]["name"]  # which are asked for below
    except (ValueError, KeyError, TypeError) as err:
        reason = f"lacks {err}" if isinstance(err, KeyError) else f"is no card of a model ({first_line(err)})"
        raise DatasetError(f"{path / 'card.json'}: {reason}") from err
    if not (path / "model.onnx").is_file():
        raise FileNotFoundError(f"{path}: has no model.onnx")
    return card, form


def _check_csv(path: Path) -> None:
    """Raise DatasetError, before anything is measured, where no file could be written to `path`."""
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as err:
        raise DatasetError(f"--csv {path}: cannot be written ({err.strerror})") from err


def _to_measure(data: Dataset, own: str, run: Path) -> tuple[np.ndarray, np.ndarray, tuple[Path, ...], str]:
    """Images, targets and files that the model was not trained on, and what they are called.

    Of the training's own pictures, those that its `run` does not remember; where it remembers nothing, the test split.
    """
    count = len(data.x_train)
    if not data.files or not (data.set_aside or data.name != own):
        return data.x_test, data.y_test, data.files[count:], "test images"
    images = np.concatenate([data.x_train, data.x_test])
    targets = np.concatenate([data.y_train, data.y_test])
    if data.name != own:  # other pictures than the training's: none of them was trained on
        return images, targets, data.files, "images, all there are,"
    if (new := unseen(data.files, run)) is None:
        print(
            f"note: {run} does not remember which pictures were trained on (--runs says where runs are kept). The test "
            "split is drawn anew; it is the training's only while no picture came or went",
            file=sys.stderr,
        )
        return data.x_test, data.y_test, data.files[count:], "test images"
    chosen = np.flatnonzero(new)
    return images[chosen], targets[chosen], tuple(data.files[i] for i in chosen), "images that it was not trained on,"


def _progress(total: int) -> Callable[[int], None]:
    """Tells a terminal how many images are answered."""

    def show(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\ranswered {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def _table(targets: np.ndarray, predicted: np.ndarray, labels: Sequence[str], groups: Sequence[str]) -> str:
    """A line for each class that is in the pictures or among the answers."""
    header, rows = by_class(targets, predicted, labels, groups)
    there = {*targets.tolist(), *predicted.tolist()}
    shown = [row for k, row in enumerate(rows) if k in there]
    widths = [max(map(len, column)) for column in zip(header, *shown, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *shown))
    return "\n".join(line.rstrip() for line in lines)


def _write_csv(
    path: Path, files: Sequence[Path], targets: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]
) -> None:
    """A row for each picture: its label, the answer and that answer's probability."""
    best = probabilities.argmax(axis=1)
    rows = (
        (file, labels[target], labels[answer], row[answer])
        for file, target, answer, row in zip(files, targets, best.tolist(), probabilities, strict=True)
    )
    write_csv(path, ("file", "label", "answer", "probability"), rows)


if __name__ == "__main__":
    sys.exit(main())
