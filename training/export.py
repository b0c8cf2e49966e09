"""`python -m training.export FILE --name NAME`: publish a classifier that was trained elsewhere, of any format."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from training.artifact.errors import ExportError
from training.artifact.pixels import RANGES, pixels_of
from training.artifact.versions import check_name
from training.foreign.importing import Asked, publish, read_file
from training.foreign.kinds import KINDS, NEED_TENSORFLOW, kind_of, without_tensorflow
from training.foreign.network import ENDINGS, LAYOUTS
from training.foreign.resizing import CONVENTIONS, FILTERS

_INPUT_CONVENTIONS = ("plain", "light_on_dark_centred", "centre_crop", "pad")


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        check_name(args.name)
        print(f"published {_publish(args.path, _asked(args), args.custom, args.trust)}")
    except ExportError as err:
        print(f"error: {' '.join(str(err).split())}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.export",
        description="Publish a classifier that was trained elsewhere, if it answers as its own runtime does.",
    )
    parser.add_argument("path", type=Path, help=f"{', '.join(KINDS.values())}")
    parser.add_argument("--name", required=True, help="the model's name: models/NAME/VERSION/")
    parser.add_argument("--output", type=Path, default=Path("models"), help="default: models")
    parser.add_argument("--origin", default="trained elsewhere", help="where its data came from, for the card")
    group = parser.add_argument_group("what it answers")
    group.add_argument(
        "--labels",
        metavar="FILE|a,b,…",
        help='class names in the order of the outputs: one a line, "0 name" a line, JSON, or a list (default: 0,1,…)',
    )
    group.add_argument("--output-name", metavar="NAME", help="the output with the classes, where there are several")
    group.add_argument("--outputs", choices=ENDINGS, help="what its answers are (default: found by running it)")
    group = parser.add_argument_group("what it takes")
    text = "pixels the model expects (default: what the file says; where it says nothing, this is asked for); "
    group.add_argument(
        "--input-range", choices=("auto", *RANGES), default="auto", help=f"{text}--input-range=-1-1 needs the ="
    )
    units = "of 0-1, or of 0-255 where one is above 1"
    group.add_argument("--mean", metavar="R,G,B", help=f"what is subtracted from the pixels, {units}")
    group.add_argument("--std", metavar="R,G,B", help="what they are divided by then")
    group.add_argument("--channel-order", choices=("RGB", "BGR"), help="default: RGB, but BGR for caffe")
    group.add_argument("--input-shape", metavar="H,W,C", help="of the picture, for flat vectors")
    group.add_argument("--input-size", "--image-size", metavar="N|H,W", help="for a model that takes any size")
    group.add_argument("--layout", choices=LAYOUTS, help="where the shape does not tell where the channels are")
    group = parser.add_argument_group("how pictures of other sizes are brought to its size")
    group.add_argument("--resize", choices=tuple(CONVENTIONS), help="default: what the file says, else squash")
    group.add_argument("--resize-to", type=int, metavar="N", help="pixels of the shorter side before a crop: 256, say")
    group.add_argument("--resample", choices=tuple(FILTERS), help="Pillow's filter (default: bilinear)")
    group.add_argument("--pad-fill", metavar="R,G,B", help="beside a padded picture (default: 0)")
    group.add_argument(
        "--input-convention", choices=_INPUT_CONVENTIONS, help="as the card names it; light_on_dark_centred is MNIST's"
    )
    group = parser.add_argument_group("proof")
    group.add_argument(
        "--check", type=Path, metavar="FOLDER", help="of labelled pictures, one for each class: measure it"
    )
    group.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="FILE=LABEL",
        help="a picture that must come out as this label; may be given several times",
    )
    group = parser.add_argument_group("Keras' own layers")
    group.add_argument("--custom", type=Path, metavar="FILE.py", help="defines layers and functions that FILE names")
    group.add_argument("--trust", action="store_true", help="run code that FILE holds in Lambda layers")
    return parser


def _asked(args: argparse.Namespace) -> Asked:
    name = None if args.input_range == "auto" else args.input_range
    shape, size = _whole_numbers("input-shape", args.input_shape), _whole_numbers("input-size", args.input_size)
    fill = _whole_numbers("pad-fill", args.pad_fill)
    if shape is not None and len(shape) != 3:
        raise ExportError(f"--input-shape takes H,W,C, got {args.input_shape!r}")
    if size is not None and len(size) > 2:
        raise ExportError(f"--input-size takes N or H,W, got {args.input_size!r}")
    if fill is not None and not all(0 <= level <= 255 for level in fill):
        raise ExportError(f"--pad-fill takes levels from 0 to 255, got {args.pad_fill!r}")
    if args.check is not None and not args.check.is_dir():
        raise ExportError(f"--check {args.check}: no such folder")
    if args.input_convention and (args.resize or args.resize_to):
        raise ExportError("--input-convention and --resize say the same: leave out one of the two")
    return Asked(
        args.name,
        args.output,
        args.labels,
        pixels_of(name, _numbers("mean", args.mean), _numbers("std", args.std), args.channel_order),
        (size[0], size[-1]) if size else None,
        shape,
        args.layout,
        args.output_name,
        args.outputs,
        args.resize,
        args.resize_to,
        args.resample,
        fill,
        args.input_convention,
        args.check,
        tuple(args.expect),
        args.origin,
    )


def _publish(path: Path, asked: Asked, custom: Path | None, trust: bool) -> Path:
    kind = kind_of(path)
    if kind in NEED_TENSORFLOW and without_tensorflow():
        raise ExportError(
            f"{path}: is {KINDS[kind]}, which takes TensorFlow to read: run this in the training environment, "
            f".venv-dev/bin/python -m training.export {path} … (`make train` sets it up)"
        )
    if kind == "onnx":
        return publish(read_file(path), asked)
    if kind == "keras":
        from training.foreign.keras_file import publish_keras

        return publish_keras(path, asked, custom, trust)
    from training.foreign.tensorflow_file import read_saved_model, read_tflite

    return publish(read_saved_model(path) if kind == "saved_model" else read_tflite(path), asked)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(v) for v in text.split(","))
    except ValueError as err:
        raise ExportError(f"--{option} takes numbers as 0.5 or 0.485,0.456,0.406, got {text!r}") from err


def _whole_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(v) for v in text.split(","))
    except ValueError as err:
        form = {"input-shape": "H,W,C", "input-size": "N or H,W"}.get(option, "whole numbers")
        raise ExportError(f"--{option} takes {form}, got {text!r}") from err


if __name__ == "__main__":
    sys.exit(main())
