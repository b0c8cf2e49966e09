"""`python -m training.export PATH.keras --name NAME`: publish a Keras classifier that was trained elsewhere."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from training.artifact.card import card_of_unknown_training
from training.artifact.graph import ExportError
from training.artifact.publishing import export

CONVENTIONS = ("plain", "light_on_dark_centred")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.export", description="Publish a Keras classifier that was trained elsewhere."
    )
    parser.add_argument("path", type=Path, help="a .keras file whose output is a softmax")
    parser.add_argument("--name", required=True, help="the model's name: models/NAME/VERSION/")
    parser.add_argument("--labels", help="class names a,b,… in the order of the outputs (default: 0,1,…)")
    parser.add_argument("--output", type=Path, default=Path("models"), help="default: models")
    parser.add_argument("--input-shape", help="H,W,C of the picture, for a model that takes flat vectors")
    parser.add_argument(
        "--input-range", choices=("0-1", "0-255"), default="0-1", help="pixel range the model expects (default: 0-1)"
    )
    parser.add_argument("--input-convention", choices=CONVENTIONS, default="plain", help="default: plain")
    parser.add_argument("--origin", default="trained elsewhere", help="where its data came from, for the card")
    args = parser.parse_args(argv)
    try:
        try:
            model = keras.saving.load_model(args.path, compile=False)
        except Exception as err:  # Keras and the classes a file names raise what they like
            reason = next(iter(str(err).splitlines()), type(err).__name__)
            raise ExportError(f"{args.path}: not a readable .keras file ({reason[:200]})") from err
        if getattr(model, "inputs", None) is None:
            raise ExportError(
                f"{args.path}: the model was saved before it was built: call it on one batch and save again"
            )
        if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.output_shape) != 2:
            raise ExportError(f"{args.path}: needs one input and one output (N, K), got {model.output_shape}")
        try:
            shape = tuple(int(v) for v in args.input_shape.split(",")) if args.input_shape else None
        except ValueError as err:
            raise ExportError(f"--input-shape takes H,W,C, got {args.input_shape!r}") from err
        labels = args.labels.split(",") if args.labels else [str(i) for i in range(model.output_shape[1])]
        card = card_of_unknown_training(model.name, args.name, args.origin, args.input_convention)
        scale = 1 / 255 if args.input_range == "0-1" else 1.0
        path = export(model, args.name, labels=labels, output=args.output, card=card, input_shape=shape, scale=scale)
    except ExportError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(f"published {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
