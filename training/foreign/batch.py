"""A graph for a fixed number of pictures -> the same graph for any number.

An exporter that saw one picture writes that 1 into the targets of Reshape. Their first dimension becomes free; where
that is not enough, the whole graph becomes the body of a Scan over the pictures. Knows no layout and no classes.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from training.foreign.network import dims_of
from training.foreign.onnx_file import graphs_in


def freed(proto: onnx.ModelProto, batch: int | None, shape: Sequence[int]) -> onnx.ModelProto:
    """A copy whose one input takes (N, *shape), N free. `batch` is the number that the graph was written for.

    The shapes of all values inside are left out: ONNX Runtime finds them again. Whether the graph still answers the
    same for several pictures is for the caller to try.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if batch is not None:
        _free_reshapes(copy, _shapes(proto, batch, shape))
    set_shape(copy.graph.input[0], ("N", *shape))
    del copy.graph.value_info[:]
    for output in copy.graph.output:
        if (dims := dims_of(output)) and batch is not None:
            set_shape(output, ("N", *dims[1:]))
    return copy


def set_shape(value: onnx.ValueInfoProto, dims: Sequence[int | str | None]) -> None:
    """Declare the shape of a tensor; a name is a free dimension, None one without a name."""
    declared = value.type.tensor_type.shape
    del declared.dim[:]
    for dim in dims:
        entry = declared.dim.add()
        if isinstance(dim, str):
            entry.dim_param = dim
        elif dim is not None:
            entry.dim_value = dim


def _shapes(proto: onnx.ModelProto, batch: int, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shapes of the values that are known whole for `batch` pictures."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    set_shape(copy.graph.input[0], (batch, *shape))
    inferred = shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes = {}
    for value in (*inferred.value_info, *inferred.output):
        if (dims := dims_of(value)) is not None and None not in dims:
            shapes[value.name] = tuple(n for n in dims if n is not None)
    return shapes


def _free_reshapes(proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Let the first dimension of every Reshape whose target is a constant be whatever the others leave."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    of_weights = _without_input(proto)
    for node in proto.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants or node.output[0] in of_weights:
            continue
        target = numpy_helper.to_array(constants[node.input[1]]).tolist()
        known = shapes.get(node.output[0])
        if not target or (target[0] == -1 and 0 not in target):
            continue
        if known is not None:
            target = [-1, *known[1:]]
        elif -1 not in target and 0 not in target:
            target[0] = -1
        elif target[0] != 0:
            target[0] = 0
        del node.attribute[:]  # allowzero: no target here means an empty tensor
        name = f"{node.output[0]}:shape"
        proto.graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
        node.input[1] = name


def _without_input(proto: onnx.ModelProto) -> set[str]:
    """The values that are made of weights alone."""
    reached = {proto.graph.input[0].name}
    made: set[str] = set()
    for node in proto.graph.node:
        (reached if reached & set(node.input) or graphs_in(node) else made).update(node.output)
    return made - reached


# What takes the scale of a tensor from all pictures in it
_OF_ALL_PICTURES = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")


def is_scaled_by_batch(proto: onnx.ModelProto) -> bool:
    """Whether the answers to a picture depend on the pictures beside it, by a few thousandths: the graph was quantised
    dynamically, and each tensor gets one scale."""
    return any(node.op_type in _OF_ALL_PICTURES for node in proto.graph.node)


def trains(proto: onnx.ModelProto) -> bool:
    """Whether a BatchNormalization takes its mean from the pictures that are with it, as in training."""
    return any(
        node.op_type == "BatchNormalization" and any(a.name == "training_mode" and a.i for a in node.attribute)
        for node in proto.graph.node
    )


def one_by_one(proto: onnx.ModelProto, output: str, shape: Sequence[int]) -> onnx.ModelProto:
    """The same graph as the body of a Scan: it sees one picture at a time, and so needs no free batch.

    `proto` takes one picture (1, *shape); the new graph takes (N, *shape) and gives the output (N, …).
    """
    body = onnx.GraphProto()
    body.CopyFrom(proto.graph)
    inner = body.input[0]
    outer, elem_type = inner.name, inner.type.tensor_type.elem_type
    given = next(value for value in body.output if value.name == output)
    result_type = given.type.tensor_type.elem_type
    axis = numpy_helper.from_array(np.array([0], np.int64), f"{outer}:axis")
    body.node.insert(0, helper.make_node("Unsqueeze", [f"{outer}:one", axis.name], [outer]))
    body.node.append(helper.make_node("Squeeze", [output, axis.name], [f"{output}:one"]))
    body.initializer.append(axis)
    del body.input[:], body.output[:], body.value_info[:]
    body.input.append(helper.make_tensor_value_info(f"{outer}:one", elem_type, list(shape)))
    body.output.append(helper.make_tensor_value_info(f"{output}:one", result_type, None))
    body.name = "one_picture"
    scan = helper.make_node("Scan", [f"{outer}:all"], [f"{output}:all"], body=body, num_scan_inputs=1)
    graph = helper.make_graph(
        [scan],
        proto.graph.name or "network",
        [helper.make_tensor_value_info(f"{outer}:all", elem_type, ["N", *shape])],
        [helper.make_tensor_value_info(f"{output}:all", result_type or TensorProto.FLOAT, None)],
    )
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    whole.graph.CopyFrom(graph)
    return whole
