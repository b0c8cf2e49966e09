"""A trained Keras model -> one self-contained artifact, compared in three forms before it is published.

`models/NAME/VERSION/` receives model.onnx, the SavedModel, card.json and golden.npz, or nothing at all: everything is
written under a temporary name, checked and renamed into place. Knows no network, recipe or data set: what the card
says of them is passed in. `python -m training.export PATH.keras --name NAME` does it for a model trained elsewhere.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx

from training.golden import CLASSES, golden_inputs

OPSET = 15  # 18 turns GlobalAveragePool into ReduceMean and adds a Transpose
TOLERANCE = 1e-4  # largest difference of a probability between Keras, SavedModel and ONNX
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
COMMITTED = ("model.onnx", "golden.npz")  # their hashes stand in the card
CONVENTIONS = ("plain", "light_on_dark_centred")


class ExportError(RuntimeError):
    """The model cannot be published; nothing was left behind."""


def export(
    model: keras.Model,
    name: str,
    *,
    labels: Sequence[str],
    output: Path,
    card: dict[str, Any],
    input_shape: tuple[int, ...] | None = None,
    scale: float = 1 / 255,
) -> Path:
    """Publish `model` as the next free version of `output/name` and return that folder.

    `card` holds the keys of card.json that only the caller knows; `input_shape` (H, W, C) is needed when the model
    takes flat vectors; `scale` is multiplied onto the uint8 pixels. Raises ExportError.
    """
    check_name(name)
    if tuple(model.output_shape[1:]) != (len(labels),) or len(labels) < 2:
        raise ExportError(
            f"the model gives {tuple(model.output_shape[1:])} outputs but there are {len(labels)} labels (at least 2)"
        )
    function, shape = serving_function(model, input_shape, scale)
    parent = output / name
    existed = parent.exists()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tmp-", dir=parent))
    except OSError as err:
        raise ExportError(f"cannot write to {parent}: {err}") from err
    try:
        images, reference = golden_inputs(shape, lambda x: np.asarray(function(tf.constant(x))["probabilities"]))
        _check_probabilities(reference)
        covered = len(np.unique(reference.argmax(axis=1)))
        if covered < min(CLASSES, len(labels)):
            print(f"warning: the golden answers cover {covered} classes, not {CLASSES}: this model tells few apart")
        write_saved_model(model, function, folder)
        write_onnx(function, folder / "model.onnx", name, labels)
        compare(folder, images, reference)
        np.savez(folder / "golden.npz", image=images, probabilities=reference)
        _write_card(folder, model, name, labels, shape, card)
        folder.chmod(0o755)  # mkdtemp makes it private; a server may run as another user
        return _publish(folder, parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):  # another export's version is in it, or that export removed it
                parent.rmdir()


def check_name(name: str) -> None:
    """Raise ExportError unless `name` can name a model's folder."""
    if not NAME.fullmatch(name):
        raise ExportError(f"model name {name!r}: use letters, digits, '.', '_' and '-', at most 100")


def serving_function(
    model: keras.Model, input_shape: tuple[int, ...] | None, scale: float
) -> tuple[Any, tuple[int, int, int]]:
    """The graph that is served: image (N, H, W, C) uint8 -> {"probabilities": (N, K) float32}, and (H, W, C)."""
    inside = given = tuple(model.input_shape[1:])
    shape = input_shape or {2: (*inside, 1), 3: inside}.get(len(inside))
    if shape is None or None in shape:
        raise ExportError(
            f"the model takes inputs of shape {inside}: say with --input-shape H,W,C what picture that is"
        )
    if None in inside:  # fully convolutional: any height and width
        fits = len(shape) == len(inside) and all(
            free is None or free == n for free, n in zip(inside, shape, strict=True)
        )
        inside = shape
    else:
        fits = np.prod(shape) == np.prod(inside)
    if len(shape) != 3 or shape[2] not in (1, 3) or min(shape) < 1 or not fits:
        raise ExportError(f"a picture of shape {shape} does not fit the model's input of shape {given} (C is 1 or 3)")

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.uint8, name="image")])
    def classify(image: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.cast(image, tf.float32) * tf.constant(scale, tf.float32)
        x = tf.reshape(x, (-1, *inside)) if inside != shape else x
        return {"probabilities": tf.identity(model(x, training=False), name="probabilities")}

    height, width, channels = shape
    return classify, (height, width, channels)


def write_saved_model(model: keras.Model, function: Any, folder: Path) -> None:
    """saved_model.pb and variables/ with `function` as `serving_default`."""
    holder = tf.Module()
    holder.model = model
    holder.classify = function
    tf.saved_model.save(holder, str(folder), signatures={"serving_default": function.get_concrete_function()})


def write_onnx(function: Any, path: Path, name: str, labels: Sequence[str]) -> None:
    """One uint8 input `image` (N, H, W, C), one float32 output `probabilities` (N, K), name and labels as metadata."""
    proto, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=OPSET)
    _rename(proto.graph, proto.graph.input[0], "image")
    _rename(proto.graph, proto.graph.output[0], "probabilities")
    proto.graph.name = name
    onnx.helper.set_model_props(proto, {"name": name, "labels": json.dumps(list(labels))})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))


def _rename(graph: onnx.GraphProto, value: onnx.ValueInfoProto, name: str) -> None:
    """Give an input or output its documented name, and its free dimension the name N."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, old in enumerate(names):
                if old == value.name:
                    names[i] = name
    value.name = name
    value.type.tensor_type.shape.dim[0].dim_param = "N"


def compare(folder: Path, images: np.ndarray, reference: np.ndarray) -> None:
    """Raise ExportError unless SavedModel and ONNX give `reference` within 1e-4 and the same top-1 for `images`."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    answers = {
        "SavedModel": signature(image=tf.constant(images))["probabilities"].numpy(),
        "ONNX": session.run(["probabilities"], {"image": images})[0],
    }
    for form, answer in answers.items():
        difference = float(np.abs(answer - reference).max())
        flipped = int((answer.argmax(axis=1) != reference.argmax(axis=1)).sum())
        if not difference <= TOLERANCE or flipped:
            raise ExportError(
                f"{form} disagrees with Keras on the golden inputs: largest difference {difference:.2g} "
                f"(limit {TOLERANCE}), {flipped} of {len(images)} answers changed; nothing was published"
            )


def _check_probabilities(reference: np.ndarray) -> None:
    if reference.min() < 0 or np.abs(reference.sum(axis=1) - 1).max() > 1e-3:
        raise ExportError("the model's outputs are no probabilities (a row must sum to 1): end it with a softmax")


def _write_card(
    folder: Path, model: keras.Model, name: str, labels: Sequence[str], shape: Sequence[int], card: dict[str, Any]
) -> None:
    whole = {
        "name": name,
        **card,
        "labels": list(labels),
        "input_shape": list(shape),
        "parameters": model.count_params(),
        "libraries": {
            "python": platform.python_version(),
            **{lib: library_version(lib) for lib in ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy")},
        },
        "revision": _revision(),
        "files": {
            file: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for file in COMMITTED
            if (content := (folder / file).read_bytes())
        },
    }
    (folder / "card.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def _publish(folder: Path, parent: Path) -> Path:
    """Rename `folder` to the next free integer; another process may take the same number first."""
    while True:
        taken = [int(p.name) for p in parent.iterdir() if p.name.isdecimal()]
        target = parent / str(max(taken, default=0) + 1)
        try:
            # rename(2) replaces an empty folder only: a published version is never empty
            folder.rename(target)
            return target
        except OSError:
            if not target.exists():
                raise


def _revision() -> str | None:
    """The commit this ran from, marked if the code was changed since; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


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
        card = {
            "network": model.name,
            "dataset": {"name": args.name.rpartition("-")[2], "origin": args.origin, "train": None, "test": None},
            "input_convention": args.input_convention,
            "resample": "bilinear",
            "recipe": None,
            "metrics": None,
            "training": None,
        }
        scale = 1 / 255 if args.input_range == "0-1" else 1.0
        path = export(model, args.name, labels=labels, output=args.output, card=card, input_shape=shape, scale=scale)
    except ExportError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(f"published {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
