"""A served ONNX graph -> how far rounding moves its answers: they are computed again with weights that were moved.

The rule is `artifact/exactness.py`'s. Knows the constants of a graph and how to run it again, nothing of its origin.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from training.artifact.exactness import spread_of
from training.data.dataset import batch_for
from training.foreign.onnx_file import all_graphs, session
from training.foreign.wrapping import IMAGE, PROBABILITIES

_PRECISIONS = {TensorProto.BFLOAT16: "bfloat16", TensorProto.FLOAT16: "float16"}  # the coarsest first


class _Constant:
    """A constant of the graph, as `spread_of` reads and sets a weight."""

    def __init__(self, tensor: onnx.TensorProto, graph: "_Graph"):
        self._tensor, self._graph = tensor, graph

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(numpy_helper.to_array(self._tensor), dtype)

    def assign(self, value: np.ndarray) -> None:
        self._tensor.CopyFrom(numpy_helper.from_array(value, self._tensor.name))
        self._graph.running = None


class _Graph:
    """A graph that is loaded again once a constant was set."""

    def __init__(self, model: onnx.ModelProto):
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.running: Any = None

    def predict(self, images: np.ndarray) -> np.ndarray:
        if self.running is None:
            self.running = session(self.model)
        part = batch_for(images.shape[1:])
        parts = [
            self.running.run([PROBABILITIES], {IMAGE: images[i : i + part]})[0] for i in range(0, len(images), part)
        ]
        return np.concatenate(parts)

    def constants(self) -> list[_Constant]:
        """Those with floats of more than one number: what was learnt, or as good as. Sizes are none of them."""
        kinds = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
        return [
            _Constant(tensor, self)
            for graph in all_graphs(self.model.graph)
            for tensor in _weights(graph)
            if tensor.data_type in kinds and np.prod(tensor.dims) > 1
        ]


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Its constants, but for those that say how large a Resize makes its picture: 2.0000002 times is an error."""
    sizes: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in ("Resize", "Upsample"):
            sizes.update(node.input[1:])
        elif node.op_type != "Shape" and sizes & set(node.output):
            sizes.update(node.input)
    yield from (tensor for tensor in graph.initializer if tensor.name not in sizes)
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] not in sizes:
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def graph_spread(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """How far rounding moves the probabilities of each image (n, H, W, C) uint8: (n,)."""
    graph = _Graph(model)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    coarsest = next((name for kind, name in _PRECISIONS.items() if kind in kinds), "float32")
    return spread_of(images, graph.predict, graph.constants(), coarsest)
