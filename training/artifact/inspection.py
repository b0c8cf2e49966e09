"""A Keras model that was trained elsewhere -> which pixels it expects and what its outputs are, found in its graph.

Knows no layers: a model may be nested, functional or of layers of its own.
"""

from collections import deque
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.artifact.errors import ExportError
from training.artifact.graph import frozen, serving_function
from training.artifact.pixels import RANGES, Pixels

# The first of these ends what a graph does to the pixels before it learns from them.
_WEIGHTED = {"Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum"}
_PASSED = {"Identity", "Cast", "Reshape", "Squeeze"}  # on the way back from the output


def input_range(model: keras.Model, input_shape: tuple[int, ...] | None) -> tuple[str | None, str]:
    """The pixel range that the model expects, None where its graph does not tell, and a sentence that says why.

    What the graph does to a pixel before its first weights is taken for a x + b. It tells the range by where it is 0,
    which is near the middle of the pixels, and by how small a is.
    """
    if tf.as_dtype(model.inputs[0].dtype).is_integer:
        return "0-255", "the model takes whole numbers"
    function, shape = serving_function(model, input_shape, RANGES["0-255"])
    graph = frozen(function)
    if (first := _first_weighted(graph)) is None:
        return None, "the graph has no convolution or matrix product"
    before = graph.prune(graph.inputs[0], first)
    black, dark, white = (np.asarray(before(tf.constant(np.full((1, *shape), v, np.uint8)))) for v in (0, 1, 255))
    steady = np.isfinite([black, dark, white]).all()
    slope, zero = float(np.median((white - black) / 255)), float(np.median(black))
    if not steady or not np.allclose(dark - black, (white - black) / 255, atol=0.1 * abs(slope)):
        return None, "the graph changes the pixels in a way that does not tell their range"
    if slope == 0 or (abs(slope - 1) < 1e-6 and abs(zero) < 1e-6):
        return None, "nothing in the graph scales the pixels"
    middle = -zero / slope
    kind = "-1-1" if middle < -0.5 else "0-255" if abs(slope) < 0.1 or middle > 2 else "0-1"
    return kind, f"the graph begins with {slope:.4g} x + {zero:.4g}"


def ending(model: keras.Model, input_shape: tuple[int, ...] | None, pixels: Pixels) -> str:
    """What the model's outputs are: "probabilities", "logits" or one "sigmoid". Raises ExportError for anything else.

    `pixels` is the range that the model expects.
    """
    function, shape = serving_function(model, input_shape, pixels)
    noise = np.random.default_rng(0).integers(0, 256, (16, *shape), np.uint8)
    outputs = np.asarray(function(tf.constant(noise))["probabilities"])
    if not np.isfinite(outputs).all():
        raise ExportError(
            f"the model's outputs for pixels of {pixels} are not finite numbers: try another --input-range"
        )
    if outputs.min() < 0 or outputs.max() > 1:
        return "logits"
    if outputs.shape[1] == 1:
        if _last(frozen(function)) == "Sigmoid":
            return "sigmoid"
    elif np.abs(outputs.sum(axis=1) - 1).max() < 1e-3:
        return "probabilities"
    raise ExportError("the model's outputs are no probabilities (a row must sum to 1): end it with a softmax")


def _first_weighted(graph: Any) -> tf.Tensor | None:
    """The tensor that goes into the weighted operation nearest to the input."""
    queue, seen = deque([graph.inputs[0]]), set()
    while queue:
        tensor = queue.popleft()
        for operation in tensor.consumers():
            if operation.type in _WEIGHTED:
                return tensor
            if operation.name not in seen:
                seen.add(operation.name)
                queue.extend(output for output in operation.outputs if output.dtype.is_floating)
    return None


def _last(graph: Any) -> str:
    operation = graph.outputs[0].op
    while operation.type in _PASSED:
        operation = operation.inputs[0].op
    return str(operation.type)
