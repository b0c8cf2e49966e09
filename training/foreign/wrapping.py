"""A network of someone else -> the graph that is served: uint8 pictures (N, H, W, C) in, probabilities (N, K) out.

The order of channels, scaling, layout and type go in front of the network, a softmax behind it. Knows neither files nor
what the classes mean.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from training.artifact.pixels import Pixels
from training.foreign.network import Input, Output
from training.foreign.onnx_file import graphs_in

_ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear")
IMAGE, PROBABILITIES = "image", "probabilities"


def wrapped(
    proto: onnx.ModelProto, source: Input, output: Output, pixels: Pixels, name: str, labels: Sequence[str]
) -> onnx.ModelProto:
    """The served graph around `proto`, whose one input takes any number of pictures."""
    taken = {value for node in proto.graph.node for value in (*node.input, *node.output)}
    into, out = proto.graph.input[0].name, output.name
    if {IMAGE, PROBABILITIES} & (taken | {tensor.name for tensor in proto.graph.initializer}):
        proto = compose.add_prefix(proto, "network/")
        into, out = f"network/{into}", f"network/{out}"
    rounds = any(into in node.input and node.op_type in _ROUNDING for node in proto.graph.node)
    front, front_constants = _front(source, pixels, into, rounds)
    behind, behind_constants = _behind(output, out, proto)
    height, width, channels = source.shape
    graph = helper.make_graph(
        [*front, *proto.graph.node, *behind],
        name,
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["N", height, width, channels])],
        [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["N", output.classes])],
        [*front_constants, *proto.graph.initializer, *behind_constants],
        sparse_initializer=proto.graph.sparse_initializer,
    )
    _prune(graph)
    model = onnx.ModelProto()
    model.ir_version = proto.ir_version
    model.opset_import.extend(proto.opset_import)
    model.functions.extend(proto.functions)
    model.producer_name, model.producer_version = proto.producer_name, proto.producer_version
    model.graph.CopyFrom(graph)
    helper.set_model_props(model, {"name": name, "labels": json.dumps(list(labels))})
    return model


class _Chain:
    """Nodes one after the other, each on what the one before gave, and the constants that they need."""

    def __init__(self, value: str, prefix: str):
        self.value = value
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def add(self, operation: str, *constants: np.ndarray, **attributes: object) -> str:
        before, self.value = self.value, f"{self._prefix}:{len(self.nodes)}:{operation}"
        inputs = [before]
        for i, constant in enumerate(constants):
            inputs.append(f"{self.value}:{i}")
            self.constants.append(numpy_helper.from_array(constant, inputs[-1]))
        self.nodes.append(helper.make_node(operation, inputs, [self.value], name=self.value, **attributes))
        return before

    def end(self, name: str) -> None:
        """Let the last node give `name`."""
        if not self.nodes:
            self.add("Identity")
        self.nodes[-1].output[0] = name


def _front(
    source: Input, pixels: Pixels, into: str, rounds: bool
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """From `image` to what the network takes. What moves pixels comes first, while they are bytes.

    Where the network `rounds` what it takes, each step is `Pixels.of`'s own: of pixels from -1 to 1 in 256 steps each
    lies between two of them, and the last bit decides.
    """
    chain = _Chain(IMAGE, IMAGE)
    if pixels.bgr:
        chain.add("Gather", np.array([2, 1, 0], np.int64), axis=3)
    if source.layout == "NCHW":
        chain.add("Transpose", perm=[0, 3, 1, 2])
    scale, offset = pixels.factors()
    scaled = (scale != 1).any() or (offset != 0).any()
    if scaled:
        chain.add("Cast", to=TensorProto.FLOAT)
        axes = (-1, 1, 1) if source.layout == "NCHW" else (-1,)
        steps: list[tuple[str, Any, int]] = [("Mul", scale, 1), ("Add", offset, 0)]
        if rounds:
            steps = [("Div", pixels.divisor, 1), ("Sub", pixels.mean, 0), ("Div", pixels.std, 1)]
        for operation, numbers, neutral in steps:
            values = np.array(numbers, np.float32)
            if (values != neutral).any():
                chain.add(operation, values.reshape(axes))
    if source.elem_type != (TensorProto.FLOAT if scaled else TensorProto.UINT8):
        chain.add("Cast", to=source.elem_type)
    if source.layout in ("NHW", "flat"):
        inside = source.shape[:2] if source.layout == "NHW" else (int(np.prod(source.shape)),)
        chain.add("Reshape", np.array([-1, *inside], np.int64))
    chain.end(into)
    return chain.nodes, chain.constants


def _behind(output: Output, out: str, proto: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """From the network's classes to `probabilities`."""
    chain = _Chain(out, PROBABILITIES)
    kind = next(value.type.tensor_type for value in proto.graph.output if value.name == out)
    if kind.elem_type != TensorProto.FLOAT:
        chain.add("Cast", to=TensorProto.FLOAT)
    if len(kind.shape.dim) != 2 or not kind.HasField("shape"):
        chain.add("Reshape", np.array([-1, output.count], np.int64))
    if output.count == 1:
        if output.ending == "logits":
            chain.add("Sigmoid")
        second = chain.value
        one = np.ones((), np.float32)
        chain.add("Neg")
        chain.add("Add", one)
        chain.nodes.append(helper.make_node("Concat", [chain.value, second], [PROBABILITIES], axis=1))
        return chain.nodes, chain.constants
    if output.ending == "logits":
        chain.add("Softmax", axis=-1)
    elif output.ending == "log-probabilities":
        chain.add("Exp")
    chain.end(PROBABILITIES)
    return chain.nodes, chain.constants


def _prune(graph: onnx.GraphProto) -> None:
    """Drop nodes and constants that the output does not need: other outputs, and what only training used."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
            needed.update(_captured(node))
    nodes = kept[::-1]
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)


def _captured(node: onnx.NodeProto) -> set[str]:
    """The names that graphs inside a node use; some of them come from outside."""
    names: set[str] = set()
    for graph in graphs_in(node):
        names.update(value.name for value in graph.output)
        for child in graph.node:
            names.update(child.input)
            names.update(_captured(child))
    return names


def parameters(proto: onnx.ModelProto) -> int:
    """How many numbers the network's constants hold, as far as they are floats."""
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    tensors = [*proto.graph.initializer]
    tensors += [
        a.t for node in proto.graph.node if node.op_type == "Constant" for a in node.attribute if a.HasField("t")
    ]
    quantised = {TensorProto.INT8, TensorProto.UINT8}
    return sum(int(np.prod(t.dims)) for t in tensors if t.data_type in floats | quantised)
