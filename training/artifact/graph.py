"""A Keras model -> the graph that is served, as a SavedModel and as ONNX.

Scaling of the uint8 pixels and flattening are put inside the graph, so that serving has no branch per model. Knows
nothing of where the model came from.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

OPSET = 15  # 18 turns GlobalAveragePool into ReduceMean and adds a Transpose


class ExportError(RuntimeError):
    """The model cannot be published; nothing was left behind."""


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
    proto, _ = tf2onnx.convert.from_function(
        function,
        input_signature=function.input_signature,
        opset=OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    # tf2onnx 1.17 makes inputs of what a layer holds beside its variables, such as a Normalization's mean.
    held = {inner.name: outer for outer, inner in function.get_concrete_function().graph.captures}
    used = {name for node in proto.graph.node for name in node.input}
    for value in [value for value in proto.graph.input if value.name in held]:
        if value.name in used:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(held[value.name].numpy(), value.name))
        proto.graph.input.remove(value)
    _rename(proto.graph, proto.graph.input[0], "image")
    _rename(proto.graph, proto.graph.output[0], "probabilities")
    proto.graph.name = name
    onnx.helper.set_model_props(proto, {"name": name, "labels": json.dumps(list(labels))})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))


def _erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    """1 - Erf(x), for tf2onnx 1.17, which does not know Erfc; Keras' gelu has it."""
    node.type = "Erf"
    one = graph.make_const(f"{name}_one", np.ones((), np.float32))
    graph.insert_new_node_on_output("Sub", node.output[0], inputs=[one.output[0], node.output[0]], name=f"{name}_sub")


def _rename(graph: onnx.GraphProto, value: onnx.ValueInfoProto, name: str) -> None:
    """Give an input or output its documented name, and its free dimension the name N."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, old in enumerate(names):
                if old == value.name:
                    names[i] = name
    value.name = name
    value.type.tensor_type.shape.dim[0].dim_param = "N"
