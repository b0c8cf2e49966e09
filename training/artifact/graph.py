"""A Keras model -> the graph that is served, as a SavedModel and as ONNX.

Scaling of the uint8 pixels and flattening are put inside the graph, so that serving has no branch per model. Knows
nothing of where the model came from.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tf2onnx.graph import Graph

from training.artifact.errors import ExportError
from training.artifact.pixels import RANGES, Pixels
from training.artifact.unfamiliarity import OUTPUT, Distance, with_features

OPSET = 15  # 18 turns GlobalAveragePool into ReduceMean and adds a Transpose
COPIES = "TF2ONNX_CATCH_ERRORS"  # of tf2onnx 1.17: any value at all is taken for a no


def serving_function(
    model: keras.Model,
    input_shape: tuple[int, ...] | None,
    pixels: Pixels = RANGES["0-1"],
    ending: str = "probabilities",
    distance: Distance | None = None,
) -> tuple[Any, tuple[int, int, int]]:
    """The graph that is served: image (N, H, W, C) uint8 -> {"probabilities": (N, K) float32}, and (H, W, C).

    `pixels` are those that the model expects; `ending` says what its outputs are (`inspection.py`). With a `distance`
    of the model's features there is a second output, `unfamiliarity` (N,) float32.
    """
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

    pixels.check(shape[2])
    scale, offset = (values if len(set(values)) > 1 else values[0] for values in map(np.atleast_1d, pixels.factors()))

    computed = model if distance is None else with_features(model)

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.uint8, name="image")])
    def classify(image: tf.Tensor) -> dict[str, tf.Tensor]:
        x = image[..., ::-1] if pixels.bgr else image
        x = tf.cast(x, tf.float32) * tf.constant(scale) if np.any(scale != 1) else x
        x = tf.cast(x, tf.float32) + tf.constant(offset) if np.any(offset != 0) else x
        x = tf.cast(x, model.inputs[0].dtype)
        x = tf.reshape(x, (-1, *inside)) if inside != shape else x
        answers = computed(x, training=False)
        outputs, features = (answers, None) if distance is None else answers
        y = _probabilities(tf.cast(outputs, tf.float32), ending)
        served = {"probabilities": tf.identity(y, name="probabilities")}
        return served if distance is None else {**served, OUTPUT: tf.identity(distance(features), name=OUTPUT)}

    height, width, channels = shape
    return classify, (height, width, channels)


def _probabilities(outputs: tf.Tensor, ending: str) -> tf.Tensor:
    """(N, K) that sum to 1; of one output, which is the second class', and of its complement."""
    if outputs.shape[1] == 1 and ending != "probabilities":
        second = tf.sigmoid(outputs) if ending == "logits" else outputs
        return tf.concat([1 - second, second], axis=1)
    return tf.nn.softmax(outputs) if ending == "logits" else outputs


def write_saved_model(held: keras.Model | Sequence[tf.Variable], function: Any, folder: Path) -> None:
    """saved_model.pb and variables/ with `function` as `serving_default`; `held` is what it computes with.

    A compiled model holds its optimizer's state too, which is twice its weights: the SavedModel is without it.
    """
    holder = tf.Module()
    # Of a model also the seeds of Random layers, which the graph names and Keras hides.
    holder.states = [*(held.variables if isinstance(held, keras.Model) else held)]
    # As one graph: a tf.function would be traced, and written with its constants, a second time.
    holder.classify = function.get_concrete_function()
    signatures = {"serving_default": holder.classify}
    try:
        tf.saved_model.save(holder, str(folder), signatures=signatures)
    except AssertionError:  # the graph names what is no variable, a table of strings say: the model knows it
        if not isinstance(held, keras.Model):
            raise
        holder.model = held
        tf.saved_model.save(holder, str(folder), signatures=signatures)


def frozen(function: Any) -> Any:
    """The graph of a tf.function with constants in place of its variables, as a concrete function."""
    return convert_variables_to_constants_v2(
        function.get_concrete_function(), lower_control_flow=False, aggressive_inlining=True
    )


def write_onnx(
    function: Any, path: Path, name: str, labels: Sequence[str], outputs: Sequence[str] = ("probabilities", OUTPUT)
) -> None:
    """One uint8 input `image` (N, H, W, C), name and labels as metadata, one float32 output `probabilities` (N, K).

    Where the function gives `unfamiliarity` (N,), that is a second one. `outputs` are other names for other functions.
    """
    try:
        proto = as_onnx(function, "image", outputs)
        finish_onnx(proto, path, name, labels)
    except Exception as err:  # tf2onnx and onnx raise what they like
        reason = " ".join(str(err).split()) or type(err).__name__
        raise ExportError(f"the model cannot be converted to ONNX ({reason}); nothing was published") from err


def as_onnx(function: Any, called: str, outputs: Sequence[str]) -> onnx.ModelProto:
    """The graph of a tf.function of one input, which is `called` so, with these names of its outputs."""
    # tf2onnx would take a captured constant, as Normalization has, for an input: it gets a graph that captures nothing.
    proto = converted(tf.function(frozen(function), input_signature=function.input_signature, autograph=False))
    _rename(proto.graph, proto.graph.input[0], called)
    for output, name in zip(proto.graph.output, outputs, strict=False):
        _rename(proto.graph, output, name)
    return proto


def finish_onnx(proto: onnx.ModelProto, path: Path, name: str, labels: Sequence[str]) -> None:
    """Write a checked graph with the model's name and labels as metadata."""
    proto.graph.name = name
    onnx.helper.set_model_props(proto, {"name": name, "labels": json.dumps(list(labels))})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))


def converted(function: Any) -> onnx.ModelProto:
    """tf2onnx's graph. It copies the whole graph before each of its optimizations, and keeps the copies (0.8 GB for a
    network of 14 MB), to go on where one fails: it does so only once one has failed."""

    def convert() -> onnx.ModelProto:
        handlers: dict[str, Any] = {"Erfc": (_erfc, [])}
        signature = function.input_signature
        return tf2onnx.convert.from_function(function, signature, opset=OPSET, custom_op_handlers=handlers)[0]

    os.environ[COPIES] = "FALSE"
    with _nodes_written_once():
        try:
            return convert()
        except Exception:  # tf2onnx raises what it likes
            del os.environ[COPIES]
            return convert()
        finally:
            os.environ.pop(COPIES, None)


@contextlib.contextmanager
def _nodes_written_once() -> Iterator[None]:
    """Let tf2onnx 1.17 write its nodes, weights and all, into their protobufs only for the finished graph.

    It does so after every optimization too, and a protobuf keeps what it once held until all of it is freed: 0.6 GB
    for a network of 18 MB. Nothing reads them before `make_graph`, which alone passes an argument.
    """
    write = Graph.update_proto

    def write_at_last(graph: Graph, *storage: Any) -> None:
        if storage:
            write(graph, *storage)

    Graph.update_proto = write_at_last
    try:
        yield
    finally:
        Graph.update_proto = write


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
