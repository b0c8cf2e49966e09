"""A .keras or .h5 file of any day -> a Keras model that can be published, and the artifact.

Mends what other versions wrote, rebuilds mixed precision in float32, takes one of several outputs, and runs a Lambda
layer's code only where it is trusted. Knows nothing of ONNX.
"""

import json
import os
import runpy
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import keras
import numpy as np
import tensorflow as tf

from training.artifact.card import card_of_unknown_training
from training.artifact.errors import ExportError
from training.artifact.graph import serving_function
from training.artifact.inspection import ending, input_range
from training.artifact.pixels import RANGES, Pixels
from training.artifact.publishing import export
from training.foreign import proof
from training.foreign.declared import Declared
from training.foreign.importing import Asked, resizing_of
from training.foreign.labels import read_labels
from training.foreign.network import as_probabilities
from training.foreign.onnx_file import first_line
from training.foreign.resizing import Resizing

MADE = {
    "logits": "the outputs are logits: a softmax (of one output, a sigmoid) is added",
    "sigmoid": "the one output is taken for the second class' probability",
}
# keras.applications: how a network's name begins, and the module whose preprocess_input goes with it
_FAMILIES = {
    "resnet50v2": ("resnet_v2", "-1-1"),
    "resnet101v2": ("resnet_v2", "-1-1"),
    "resnet152v2": ("resnet_v2", "-1-1"),
    "resnet": ("resnet", "caffe"),
    "vgg16": ("vgg16", "caffe"),
    "vgg19": ("vgg19", "caffe"),
    "mobilenetv2": ("mobilenet_v2", "-1-1"),
    "mobilenet_": ("mobilenet", "-1-1"),
    "inception_v3": ("inception_v3", "-1-1"),
    "inception_resnet_v2": ("inception_resnet_v2", "-1-1"),
    "xception": ("xception", "-1-1"),
    "nasnet": ("nasnet", "-1-1"),
    "densenet": ("densenet", "imagenet"),
}
_MIXED = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")


def publish_keras(
    path: Path, asked: Asked, custom: Path | None = None, trust: bool = False, say: Callable[[str], None] = print
) -> Path:
    """Publish a Keras model and return the version's folder. `say` is told what was found. Raises ExportError."""
    if asked.layout is not None or asked.size is not None:
        raise ExportError("--layout and --input-size are for ONNX files; Keras takes --input-shape H,W,C")
    config = read_config(path)
    declared = _teachable_machine(path, config)
    model = read_model(path, config, custom, trust, say)
    labels = read_labels(asked.labels) if asked.labels is not None else declared.labels
    model = _one_output(path, model, asked.output_name, None if labels is None else len(labels))
    model = _in_float32(model, say)
    pixels = asked.pixels or declared.pixels or _pixels(model, config, asked.shape, say)
    if declared.where and not asked.pixels:
        say(f"pixels {pixels}: {declared.where[0]}")
    made = asked.ending or ending(model, asked.shape, pixels)
    if made == "log-probabilities":
        raise ExportError("--outputs log-probabilities is for ONNX files: end the Keras model with a softmax")
    if made in MADE:
        say(MADE[made])
    if labels is None:
        labels = [str(i) for i in range(max(2, model.output_shape[1]))]
    function, shape = serving_function(model, asked.shape, pixels, made)
    resizing = resizing_of(asked, declared, shape)
    convention = {"input_convention": asked.convention} if asked.convention else resizing.card()
    card = card_of_unknown_training(model.name, asked.name, asked.origin, "plain") | convention
    card |= {"pixels": str(pixels), "source": {"runtime": f"Keras {keras.__version__}", "producer": None}}

    def answer(images: np.ndarray) -> np.ndarray:
        return np.asarray(function(tf.constant(images))["probabilities"])

    def original(images: np.ndarray) -> np.ndarray:
        inside = [n or m for n, m in zip(model.input_shape[1:], shape, strict=False)]
        given = pixels.of(images).reshape(len(images), *inside)
        return as_probabilities(np.asarray(model(given.astype(model.inputs[0].dtype), training=False)), made)

    probes = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    proof.exactness(answer(probes), original(probes), None)
    if max(2, model.output_shape[1]) == len(labels):  # else export says so
        card |= proof.proven(asked.expect, asked.check, answer, original, resizing, card, shape, labels, say)
    options: dict[str, Any] = {"input_shape": asked.shape, "pixels": pixels, "ending": made}
    return export(model, asked.name, labels=labels, output=asked.output, card=card, **options)


def read_config(path: Path) -> dict[str, Any]:
    """The model's configuration as the file holds it; empty where it holds none. Raises ExportError."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        with h5py.File(path) as file:
            text = file.attrs.get("model_config")
            if text is None:
                weights = "model_weights" not in file
                contents = "weights alone, without the network" if weights else "no network"
                raise ExportError(f"{path}: holds {contents}: save the whole model with model.save(file)")
            return json.loads(text)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as err:
        raise ExportError(
            f"{path}: not a readable .keras file: truncated, or of another kind ({first_line(err)})"
        ) from err


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every layer, model or function in a configuration, however deep."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)


def _teachable_machine(path: Path, config: dict[str, Any]) -> Declared:
    """What is known of Teachable Machine's `keras_model.h5`, told by its depthwise convolutions: no other tool writes
    `groups` there. https://teachablemachine.withgoogle.com prints the code: pixels / 127.5 - 1, cropped to 224."""
    grouped = any(
        o["class_name"] == "DepthwiseConv2D" and "groups" in (o.get("config") or {}) for o in _objects(config)
    )
    if not grouped or path.suffix.lower() != ".h5":
        return Declared()
    beside = path.parent / "labels.txt"
    labels = read_labels(str(beside)) if beside.is_file() else None
    where = ("Teachable Machine's file", *(("labels.txt beside it",) if labels else ()))
    return Declared(where, RANGES["-1-1"], None, Resizing("crop"), labels)


def read_model(
    path: Path, config: dict[str, Any], custom: Path | None, trust: bool, say: Callable[[str], None]
) -> keras.Model:
    """The model in the file. Raises ExportError that says what the file is and what to do."""
    lambdas = [o for o in _objects(config) if o["class_name"] == "Lambda"]
    if lambdas and not trust:
        functions = ", ".join(_function(o) for o in lambdas)
        raise ExportError(
            f"{path}: holds {len(lambdas)} Lambda layer{'s'[: len(lambdas) > 1]}, which run code ({functions}): "
            "--trust runs it, if you know who wrote the file"
        )
    objects = _custom_objects(path, custom)
    if any(_named(o) == "preprocess_input" for o in lambdas) and "preprocess_input" not in objects:
        objects["preprocess_input"] = _preprocess_input(path, config, lambdas)
    for layer in lambdas:
        say(f"--trust: runs {_function(layer, objects)}")
    objects.setdefault("DepthwiseConv2D", _DepthwiseConv2D)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")  # one input needs no name
            model = keras.saving.load_model(path, objects, compile=False, safe_mode=not trust)
    except Exception as err:  # Keras and the classes a file names raise what they like
        raise ExportError(f"{path}: not a readable .keras file here ({_reason(err)}){_hint(err, custom)}") from err
    if getattr(model, "inputs", None) is None:
        raise ExportError(f"{path}: the model was saved before it was built: call it on one batch and save again")
    if len(model.inputs) != 1:
        shapes = ", ".join(str(tensor.shape) for tensor in model.inputs)
        raise ExportError(f"{path}: needs one input, got {len(model.inputs)}: {shapes}")
    return model


class _DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras 2 wrote `groups`, always 1 and without meaning here; Keras 3 refuses it."""

    def __init__(self, *args: Any, groups: int = 1, **options: Any):
        super().__init__(*args, **options)


def _custom_objects(path: Path, custom: Path | None) -> dict[str, Any]:
    try:
        names = runpy.run_path(str(custom)) if custom else {}
    except Exception as err:  # the user's own file
        raise ExportError(f"--custom {custom}: {first_line(err)}") from err
    return {key: value for key, value in names.items() if callable(value)}


def _reason(err: Exception) -> str:
    """What Keras says, without the configurations that it repeats and the layers that it passed on the way."""
    text = str(err)
    inner = text.rpartition("Exception encountered: ")[2] or text
    kept = [line for line in inner.splitlines() if line.strip() and not line.startswith(("config=", "Full object"))]
    return " ".join(" ".join(kept).partition("Full object config:")[0].split()) or type(err).__name__


def _hint(err: Exception, custom: Path | None) -> str:
    text = str(err)
    unknown = "custom" in text or "Could not locate" in text or "Unknown layer" in text
    return "; --custom FILE.py defines what it names" if unknown and not custom else ""


def _named(layer: dict[str, Any]) -> str:
    """The name of the function that a Lambda layer calls, as Keras 2 and 3 write it; empty for one without a name."""
    function = (layer.get("config") or {}).get("function")
    if isinstance(function, dict):
        return function["config"] if isinstance(function.get("config"), str) else ""
    return function if isinstance(function, str) else ""


def _function(layer: dict[str, Any], objects: dict[str, Any] | None = None) -> str:
    name = (layer.get("config") or {}).get("name", "lambda")
    function = _named(layer)
    known = (objects or {}).get(function)
    where = f"{known.__module__}.{known.__qualname__}" if known is not None else function
    return f"{name}: {where}" if function else f"{name}: Python code inside the file, of its own"


def _family(config: dict[str, Any]) -> tuple[str, str] | None:
    """The module of keras.applications and its range, by the names of the models in a configuration."""
    for model in _objects(config):
        inside = model.get("config")
        if not isinstance(inside, dict) or "layers" not in inside:
            continue
        name = str(inside.get("name", "")).lower()
        for beginning, family in _FAMILIES.items():
            if name.startswith(beginning):
                return family
    return None


def _preprocess_input(path: Path, config: dict[str, Any], lambdas: list[dict[str, Any]]) -> Any:
    """The function of keras.applications that a Lambda names without its module. Raises ExportError."""
    modules = [str((o.get("config") or {}).get("module", "")) for o in lambdas]
    modules = [
        module.rpartition("applications.")[2].partition(".")[0] for module in modules if "applications" in module
    ]
    family = _family(config)
    module = modules[0] if modules else family[0] if family else ""
    try:
        return getattr(keras.applications, module).preprocess_input
    except AttributeError as err:
        raise ExportError(
            f"{path}: a Lambda layer calls preprocess_input, and nothing says which: --custom FILE.py with a line as "
            "`from keras.applications.resnet50 import preprocess_input`"
        ) from err


def _one_output(path: Path, model: keras.Model, wanted: str | None, labels: int | None) -> keras.Model:
    """The model with one output (N, K): the one `wanted`, the only one, or the one with as many values as labels."""
    taken, given = (getattr(model, f"_{end}_struct", None) for end in ("inputs", "outputs"))  # of a functional model
    if isinstance(given, dict):
        names = keras.tree.flatten({name: name for name in given})  # in the order of model.outputs
    elif len(model.outputs) > 1:
        names = model.output_names
    else:
        if wanted is not None and wanted not in model.output_names:
            raise ExportError(f"{path}: has no output {wanted!r}; it has {', '.join(model.output_names)}")
        if len(model.output_shape) != 2:
            raise ExportError(f"{path}: needs one input and one output (N, K), got {model.output_shape}")
        if not isinstance(taken, dict | list | tuple):
            return model
        names = model.output_names
    outputs = dict(zip(names, model.outputs, strict=True))
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in outputs.items())
    if wanted is not None and wanted not in outputs:
        raise ExportError(f"{path}: has no output {wanted!r}; it has {shapes}")
    fitting = {name: t for name, t in outputs.items() if wanted in (None, name) and len(t.shape) == 2}
    if len(fitting) > 1 and labels is not None:
        fitting = {name: t for name, t in fitting.items() if max(2, t.shape[1]) == labels}
    if len(fitting) != 1:
        outputs_text = f"several: {shapes}; choose with --output-name" if len(fitting) > 1 else shapes
        raise ExportError(f"{path}: needs one input and one output (N, K), got {outputs_text}")
    return keras.Model(model.inputs[0], next(iter(fitting.values())), name=model.name)


def _in_float32(model: keras.Model, say: Callable[[str], None]) -> keras.Model:
    """The same model computing in float32, where it was trained in a mixture of types. Its weights are float32 then."""
    policies = {layer.dtype_policy.name for layer in model._flatten_layers() if hasattr(layer, "dtype_policy")}
    if not (mixed := sorted(policies & set(_MIXED))):
        return model
    try:
        rebuilt = type(model).from_config(_replaced(model.get_config()), {"DepthwiseConv2D": _DepthwiseConv2D})
        if not rebuilt.built:
            rebuilt.build(model.input_shape)
        rebuilt.set_weights(model.get_weights())
    except Exception as err:  # Keras raises what it likes
        raise ExportError(
            f"the model computes in {', '.join(mixed)} and cannot be rebuilt in float32: {_reason(err)}"
        ) from err
    say(f"the model was trained in {', '.join(mixed)}: it is rebuilt in float32")
    return rebuilt


def _replaced(config: Any) -> Any:
    """A configuration with float32 wherever it says a type of _MIXED."""
    if isinstance(config, dict):
        return {key: _replaced(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_replaced(value) for value in config)
    return "float32" if isinstance(config, str) and config in _MIXED else config


def _pixels(
    model: keras.Model, config: dict[str, Any], shape: tuple[int, ...] | None, say: Callable[[str], None]
) -> Pixels:
    """The range that the graph tells, else 0-1; a network that keras.applications prepares otherwise is asked about."""
    name, why = input_range(model, shape)
    if name is not None:
        say(f"pixels {name}: {why}")
        return RANGES[name]
    if (family := _family(config)) is not None:
        option = f"--input-range{'=' if family[1].startswith('-') else ' '}{family[1]}"
        raise ExportError(
            f"{why}, and keras.applications has this network with preprocess_input outside: {option} if it was trained "
            "with it, or another --input-range"
        )
    say(f"pixels 0-1 (--input-range says otherwise): {why}")
    return RANGES["0-1"]
