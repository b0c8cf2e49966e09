"""`python -m training.export PATH.keras --name NAME`: publish a Keras classifier that was trained elsewhere."""

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from training.artifact.card import card_of_unknown_training
from training.artifact.graph import RANGES, ExportError
from training.artifact.inspection import ending, input_range
from training.artifact.publishing import check_name, export

CONVENTIONS = ("plain", "light_on_dark_centred", "centre_crop")
MADE = {
    "logits": "the outputs are logits: a softmax (of one output, a sigmoid) is added",
    "sigmoid": "the one output is taken for the second class' probability",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.export", description="Publish a Keras classifier that was trained elsewhere."
    )
    parser.add_argument("path", type=Path, help="a .keras or .h5 file")
    parser.add_argument("--name", required=True, help="the model's name: models/NAME/VERSION/")
    parser.add_argument("--labels", help="class names a,b,… in the order of the outputs (default: 0,1,…)")
    parser.add_argument("--output", type=Path, default=Path("models"), help="default: models")
    parser.add_argument("--input-shape", help="H,W,C of the picture, for a model that takes flat vectors or any size")
    ranges = ("auto", *RANGES)
    told = "pixel range the model expects (default: what its graph tells, else 0-1); --input-range=-1-1 needs the ="
    parser.add_argument("--input-range", choices=ranges, default="auto", help=told)
    parser.add_argument("--input-convention", choices=CONVENTIONS, default="plain", help="default: plain")
    parser.add_argument("--custom", type=Path, metavar="FILE.py", help="defines layers and functions that PATH names")
    parser.add_argument("--origin", default="trained elsewhere", help="where its data came from, for the card")
    args = parser.parse_args(argv)
    try:
        check_name(args.name)
        print(f"published {_publish(args)}")
    except ExportError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


def _publish(args: argparse.Namespace) -> Path:
    model = _read(args.path, args.custom)
    try:
        shape = tuple(int(v) for v in args.input_shape.split(",")) if args.input_shape else None
    except ValueError as err:
        raise ExportError(f"--input-shape takes H,W,C, got {args.input_shape!r}") from err
    pixels, why = (args.input_range, "") if args.input_range != "auto" else input_range(model, shape)
    if why:
        print(f"pixels {pixels}: {why}" if pixels else f"pixels 0-1 (--input-range says otherwise): {why}")
    made = ending(model, shape, pixels or "0-1")
    if made in MADE:
        print(MADE[made])
    labels = _labels(args.labels, max(2, model.output_shape[1]))
    card = card_of_unknown_training(model.name, args.name, args.origin, args.input_convention)
    options: dict[str, Any] = {"input_shape": shape, "pixels": pixels or "0-1", "ending": made}
    return export(model, args.name, labels=labels, output=args.output, card=card, **options)


def _read(path: Path, custom: Path | None) -> keras.Model:
    """The model with one input and one output (N, K). Raises ExportError."""
    try:
        names = runpy.run_path(str(custom)) if custom else {}
        custom_objects = {key: value for key, value in names.items() if callable(value)}
        model = keras.saving.load_model(path, custom_objects, compile=False)
    except Exception as err:  # Keras and the classes a file names raise what they like
        reason = next(iter(str(err).splitlines()), type(err).__name__)
        hint = "; --custom FILE.py defines what it names" if "custom" in str(err) and not custom else ""
        raise ExportError(f"{path}: not a readable .keras file ({reason[:200]}){hint}") from err
    if getattr(model, "inputs", None) is None:
        raise ExportError(f"{path}: the model was saved before it was built: call it on one batch and save again")
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise ExportError(f"{path}: needs one input and one output (N, K), got {model.output_shape}")
    return model


def _labels(text: str | None, count: int) -> list[str]:
    labels = [label.strip() for label in text.split(",")] if text else [str(i) for i in range(count)]
    if "" in labels or len(set(labels)) < len(labels):
        raise ExportError(f"--labels must be different names, got {','.join(labels)}")
    return labels


if __name__ == "__main__":
    sys.exit(main())
