"""A SavedModel folder or a .tflite file -> an ONNX graph by tf2onnx, and TensorFlow's own runtime to judge it by.

Knows nothing of pictures: what comes out goes the way of every ONNX file.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from training.artifact.errors import ExportError
from training.artifact.graph import OPSET, converted, frozen
from training.foreign.declared import Declared
from training.foreign.importing import ModelFile
from training.foreign.onnx_file import first_line
from training.foreign.original import Run

_REAL = ":real"  # added to the name of a quantised output


def read_saved_model(path: Path) -> ModelFile:
    """The signature `serving_default` of a SavedModel, else its only one. Raises ExportError."""
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as err:  # TensorFlow raises what it likes
        raise ExportError(f"{path}: TensorFlow cannot load the SavedModel: {first_line(err)}") from err
    signatures = dict(loaded.signatures)
    if "serving_default" not in signatures and len(signatures) != 1:
        there = ", ".join(signatures) or "none"
        raise ExportError(f"{path}: needs a signature serving_default, has {there}: save it with model.export(folder)")
    signature = signatures.get("serving_default") or next(iter(signatures.values()))
    inputs: dict[str, Any] = signature.structured_input_signature[1]
    if len(inputs) != 1:
        shapes = ", ".join(f"{name} {spec.shape}" for name, spec in inputs.items())
        raise ExportError(f"{path}: takes {len(inputs)} inputs ({shapes}); a classifier of pictures takes one")
    argument, spec = next(iter(inputs.items()))
    names = sorted(signature.structured_outputs)  # the order in which a flat structure has them
    function = tf.function(
        lambda x: signature(**{argument: x}), input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name=argument)]
    )
    try:
        alone = tf.function(frozen(function), input_signature=function.input_signature)
        proto = converted(alone)
    except Exception as err:  # tf2onnx raises what it likes
        raise ExportError(f"{path}: cannot be converted to ONNX ({first_line(err)})") from err
    _name_outputs(proto, names)

    def run(wanted: Sequence[str], given: np.ndarray) -> Sequence[np.ndarray]:
        answers = signature(**{argument: tf.constant(given)})
        return [answers[name].numpy() for name in wanted]

    return ModelFile(proto, Declared(name="saved_model"), run, f"TensorFlow {tf.__version__}")


def _name_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give the outputs the names that the signature has for them."""
    for value, name in zip(proto.graph.output, names, strict=True):
        if value.name != name:
            proto.graph.node.append(onnx.helper.make_node("Identity", [value.name], [name], name=f"{name}:named"))
            value.name = name


def read_tflite(path: Path) -> ModelFile:
    """A .tflite file, float or quantised. Raises ExportError."""
    try:
        run, source, outputs = _interpreter(path)
        with contextlib.redirect_stderr(io.StringIO()):
            proto = tf2onnx.convert.from_tflite(str(path), opset=OPSET)[0]
        others, _, _ = _interpreter(path, tf.lite.experimental.OpResolverType.BUILTIN_REF)
    except Exception as err:  # both raise what they like
        raise ExportError(f"{path}: is truncated, or cannot be converted to ONNX ({first_line(err)})") from err
    for name, detail in outputs.items():
        if detail["dtype"] != np.float32 and detail["quantization"][0]:
            _dequantise(proto, name, *detail["quantization"])
    scale, zero = source["quantization"]
    quantised = (float(scale), int(zero)) if scale and source["dtype"] != np.float32 else None
    return ModelFile(proto, Declared(name="tflite"), run, f"TensorFlow Lite {tf.__version__}", quantised, others)


def _interpreter(path: Path, kernels: Any = None) -> tuple[Run, dict[str, Any], dict[str, dict[str, Any]]]:
    """TensorFlow Lite's interpreter as a Run, the details of its input, and of its outputs by name."""
    options = {} if kernels is None else {"experimental_op_resolver_type": kernels}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow 2.21 announces that its interpreter moves to LiteRT
        interpreter = tf.lite.Interpreter(str(path), **options)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}

    def run(wanted: Sequence[str], given: np.ndarray) -> Sequence[np.ndarray]:
        if tuple(interpreter.get_input_details()[0]["shape"]) != given.shape:
            interpreter.resize_tensor_input(source["index"], given.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], given)
        interpreter.invoke()
        details = [outputs[name.removesuffix(_REAL)] for name in wanted]
        return [_dequantised(interpreter.get_tensor(detail["index"]), detail) for detail in details]

    return run, source, outputs


def _dequantise(proto: onnx.ModelProto, name: str, scale: float, zero: int) -> None:
    """Let a quantised output of the graph give the numbers that its whole numbers stand for."""
    value = next(value for value in proto.graph.output if value.name == name)
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    constants = [np.float32(scale), np.array(zero, kind)]
    names = [f"{name}:scale", f"{name}:zero"]
    for constant, its in zip(constants, names, strict=True):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(constant), its))
    proto.graph.node.append(
        onnx.helper.make_node("DequantizeLinear", [name, *names], [name + _REAL], name=name + _REAL)
    )
    value.name, value.type.tensor_type.elem_type = name + _REAL, onnx.TensorProto.FLOAT


def _dequantised(answer: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """A quantised output's whole numbers as the numbers that they stand for."""
    scale, zero = detail["quantization"]
    if answer.dtype.kind == "f":
        return answer
    return ((answer.astype(np.int32) - zero) * np.float32(scale)).astype(np.float32)
