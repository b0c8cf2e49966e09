"""A model of someone else -> where the picture goes in, where the classes come out, and what they are.

Looks at the graph's declared shapes and at what it answers, never at names. Says in one sentence why a model cannot be
served as a classifier. Knows nothing of files of hints beside the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from training.artifact.errors import ExportError

Shape = tuple[int | None, ...]

TYPES = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.DOUBLE: np.float64,
    onnx.TensorProto.UINT8: np.uint8,
    onnx.TensorProto.INT8: np.int8,
    onnx.TensorProto.INT32: np.int32,
    onnx.TensorProto.INT64: np.int64,
}
BYTES = {onnx.TensorProto.UINT8: 0, onnx.TensorProto.INT8: 128}  # and what is subtracted from a pixel for them
LAYOUTS = ("NCHW", "NHWC", "NHW", "flat")
_PASSED = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "DequantizeLinear", "QuantizeLinear"}
_SIGMOIDS = ("Sigmoid", "HardSigmoid")
ENDINGS = ("logits", "probabilities", "log-probabilities", "sigmoid")


@dataclass(frozen=True)
class Input:
    """Where the picture goes in: `shape` is the picture's (H, W, C), `batch` a fixed number of pictures or None."""

    name: str
    elem_type: int
    layout: str
    batch: int | None
    shape: tuple[int, int, int]

    def given(self, pixels: np.ndarray) -> np.ndarray:
        """Pictures (n, H, W, C) of the network's own pixels, in its layout and type."""
        laid = {"NCHW": lambda: pixels.transpose(0, 3, 1, 2), "NHWC": lambda: pixels, "NHW": lambda: pixels[..., 0]}
        array = laid[self.layout]() if self.layout in laid else pixels.reshape(len(pixels), -1)
        return np.ascontiguousarray(array, dtype=TYPES[self.elem_type])


@dataclass(frozen=True)
class Output:
    """Where the classes come out: `count` values, which are `ending` (one of ENDINGS)."""

    name: str
    count: int
    ending: str = "probabilities"

    @property
    def classes(self) -> int:
        return max(2, self.count)


def dims_of(value: onnx.ValueInfoProto) -> Shape | None:
    """The declared shape, None for each free dimension; None where the value is no tensor or has no shape."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)


def shape_text(shape: Sequence[int | None] | None) -> str:
    """A shape as people write it."""
    return "unknown" if shape is None else f"({', '.join('?' if n is None else str(n) for n in shape)})"


def find_input(
    proto: onnx.ModelProto, size: tuple[int, int] | None, shape: tuple[int, int, int] | None, layout: str | None
) -> Input:
    """The one input, a picture. `size` (H, W) and `shape` (H, W, C) are what the user or the files beside say of it.

    Raises ExportError.
    """
    inputs = list(proto.graph.input)
    if len(inputs) != 1:
        names = ", ".join(f"{value.name} {shape_text(dims_of(value))}" for value in inputs)
        raise ExportError(f"the model takes {len(inputs)} inputs ({names}); a classifier of pictures takes one")
    value = inputs[0]
    dims = dims_of(value)
    elem_type = value.type.tensor_type.elem_type
    if elem_type not in TYPES:
        kind = onnx.TensorProto.DataType.Name(elem_type).lower()
        raise ExportError(f"the input {value.name} takes {kind}; pictures are float32, float16, uint8 or int")
    if dims is None or len(dims) not in (2, 3, 4):
        raise ExportError(f"the input {value.name} of shape {shape_text(dims)} takes no picture: that is (N, C, H, W)")
    if len(dims) == 3 and layout is None and 3 in (dims[0], dims[2]):
        raise ExportError(
            f"the input {value.name} {shape_text(dims)} takes one picture, without an axis for several: export it with "
            "one, as (N, C, H, W)"
        )
    layout = layout or _layout(proto, value.name, dims, shape)
    inside = _inside(dims, layout)
    return Input(value.name, elem_type, layout, dims[0], _picture(value.name, dims, inside, layout, size, shape))


def _layout(proto: onnx.ModelProto, name: str, dims: Shape, shape: tuple[int, int, int] | None) -> str:
    if len(dims) < 4:
        return "flat" if len(dims) == 2 else "NHW"
    first, last = dims[1], dims[3]
    if shape is not None and shape[2] in (first, last) and first != last:
        return "NCHW" if first == shape[2] else "NHWC"
    picture = [count in (1, 3) for count in (first, last)]
    if picture[0] != picture[1]:
        return "NCHW" if picture[0] else "NHWC"
    if picture[0] or first is None or last is None:
        if _into_convolution(proto, name):
            return "NCHW"  # ONNX has no other convolution; what is NHWC is transposed first
        raise ExportError(
            f"the input {name} {shape_text(dims)} does not say where its channels are: --layout NCHW or NHWC"
        )
    raise ExportError(
        f"the input {name} {shape_text(dims)} takes {first} or {last} channels: those are no pictures (1 or 3 channels)"
    )


def _into_convolution(proto: onnx.ModelProto, name: str) -> bool:
    """Whether the first operation with weights that the input goes into is a convolution, and nothing transposes it."""
    names = {name}
    for node in proto.graph.node:
        if not names & set(node.input):
            continue
        if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
            return True
        if node.op_type in (
            "Cast",
            "Sub",
            "Div",
            "Mul",
            "Add",
            "Identity",
            "QuantizeLinear",
            "DequantizeLinear",
            "Pad",
        ):
            names.update(node.output)
        elif node.op_type != "Shape":
            return False
    return False


def _inside(dims: Shape, layout: str) -> tuple[int | None, int | None, int | None]:
    """(H, W, C) of the declared shape, as far as it tells them."""
    if layout == "flat":
        return None, None, None
    if layout == "NHW":
        return dims[1], dims[2], 1
    return (dims[2], dims[3], dims[1]) if layout == "NCHW" else (dims[1], dims[2], dims[3])


def _picture(
    name: str,
    dims: Shape,
    inside: tuple[int | None, int | None, int | None],
    layout: str,
    size: tuple[int, int] | None,
    shape: tuple[int, int, int] | None,
) -> tuple[int, int, int]:
    """The picture's (H, W, C): declared, and asked where it is free. Raises ExportError where the two differ."""
    if layout == "flat":
        if shape is None:
            raise ExportError(
                f"the input {name} {shape_text(dims)} is flat: say with --input-shape H,W,C what picture that is"
            )
        if dims[1] is not None and dims[1] != shape[0] * shape[1] * shape[2]:
            raise ExportError(f"a picture of shape {shape} has not the {dims[1]} values that the input {name} takes")
    asked = shape or ((*size, None) if size else (None, None, None))
    sides = []
    for axis, have, want in zip("HWC", inside, asked, strict=True):
        if have is not None and want is not None and have != want:
            raise ExportError(f"the input {name} is {shape_text(dims)}: it takes {axis} = {have}, not {want}")
        sides.append(have if have is not None else want)
    height, width, channels = sides[0], sides[1], sides[2] or 3
    if height is None or width is None:
        raise ExportError(
            f"the input {name} {shape_text(dims)} takes pictures of any size: say which with --input-size 224 or H,W"
        )
    if channels not in (1, 3):
        raise ExportError(
            f"the input {name} {shape_text(dims)} takes {channels} channels: those are no pictures (1 or 3)"
        )
    if min(height, width) < 1:
        raise ExportError(f"a picture of {height}x{width} pixels is none")
    return height, width, channels


def find_output(
    proto: onnx.ModelProto,
    run: Callable[[Sequence[str]], Sequence[np.ndarray]],
    batch: int,
    wanted: str | None,
    labels: int | None,
) -> Output:
    """The output that holds the classes: the one `wanted`, or the only one that can, or the one with `labels` values.

    `run` gives the outputs of these names for `batch` pictures. Raises ExportError.
    """
    names = [value.name for value in proto.graph.output]
    if wanted is not None and wanted not in names:
        raise ExportError(f"the model has no output {wanted!r}; it has {', '.join(names)}")
    tensors = [v.name for v in proto.graph.output if v.type.HasField("tensor_type")]
    candidates = [name for name in tensors if wanted in (None, name)]
    if not candidates:
        raise ExportError(f"the output {', '.join(names)} is no tensor: a classifier gives (N, K) numbers")
    answers = dict(zip(candidates, run(candidates), strict=True))
    counts = {name: count for name, answer in answers.items() if (count := _classes(answer, batch))}
    sorted_ones = [name for name in counts if _last(proto, name) == "TopK"]
    if sorted_ones and len(sorted_ones) == len(counts):
        raise ExportError(
            f"the output {sorted_ones[0]} comes from TopK: it has the best values in order, not one for each class; "
            "export the model without it"
        )
    counts = {name: count for name, count in counts.items() if name not in sorted_ones}
    if not counts:
        shapes = ", ".join(f"{name} {shape_text(answer.shape)}" for name, answer in answers.items())
        raise ExportError(f"{_kind(list(answers.values()))}: {shapes}; a classifier gives (N, K) numbers")
    fitting = {name: count for name, count in counts.items() if labels in (None, max(2, count))}
    if len(fitting) == 1 or (len(counts) == 1 and labels is None):
        name, count = next(iter(fitting.items()))
        return Output(name, count)
    if not fitting:
        given_counts = ", ".join(f"{name}: {count}" for name, count in counts.items())
        noun = "classes" if len(counts) == 1 else "classes in its outputs"
        raise ExportError(f"there are {labels} labels, but the model gives {given_counts} {noun}")
    raise ExportError(f"several outputs can be the classes ({', '.join(fitting)}): choose with --output-name")


def _classes(answer: np.ndarray, batch: int) -> int | None:
    """How many classes an answer to `batch` pictures has: (N, K), (N, K, 1, 1) or (N,); None where it has none."""
    if answer.dtype.kind != "f" or answer.ndim == 0 or answer.shape[0] != batch or answer.size % batch:
        return None
    count = answer.size // batch
    if answer.ndim > 1 and count != max(answer.shape[1:]):
        return None
    return count


def _kind(answers: Sequence[np.ndarray]) -> str:
    """What a model without classes seems to be, by the shapes of its outputs."""
    ranks = [answer.ndim for answer in answers]
    if all(answer.dtype.kind in "iu" for answer in answers):
        return "the model gives whole numbers, not how probable each class is (export it without its ArgMax)"
    if len(ranks) == 1 and ranks[0] == 4:
        return "the model gives a map, not classes of the whole picture (a segmentation or a body without its head)"
    if len(ranks) > 1 or ranks[0] == 3:
        return "the model gives boxes or sequences, not classes of the whole picture (a detector, for example)"
    return "the model gives no classes of the picture"


def ending_of(proto: onnx.ModelProto, output: Output, answers: np.ndarray, asked: str | None = None) -> Output:
    """`output` with what its values are. `answers` (n, count) are those to some pictures. Raises ExportError.

    Rows that are positive and sum to 1 are probabilities; so are those whose exponentials do, logarithmic ones.
    """
    values = answers.astype(np.float64)
    if not np.isfinite(values).all():
        raise ExportError("the model's answers are not finite numbers: try another --input-range")
    if asked is not None:
        return replace(output, ending=asked)
    last = _last(proto, output.name)
    if output.count == 1:
        inside = values.min() >= 0 and values.max() <= 1
        return replace(output, ending="sigmoid" if inside and last in (*_SIGMOIDS, "Clip") else "logits")
    if values.min() >= 0 and np.abs(values.sum(axis=1) - 1).max() < 5e-3:
        return replace(output, ending="probabilities")
    if last == "Softmax" and values.min() >= 0:
        return replace(output, ending="probabilities")  # quantised ones, whose steps add up to a little more or less
    if values.max() <= 0 and np.abs(np.exp(values).sum(axis=1) - 1).max() < 5e-3:
        return replace(output, ending="log-probabilities")
    if last in _SIGMOIDS:
        raise ExportError(
            f"the model ends in {last} for each class alone: its answers are no probabilities of one class among all "
            "(a row must sum to 1); --outputs logits takes a softmax of them all the same"
        )
    if last in ("Tanh", "Clip"):
        raise ExportError(
            f"the model ends in {last}: say with --outputs logits, probabilities or log-probabilities what that is"
        )
    return replace(output, ending="logits")


def _last(proto: onnx.ModelProto, name: str) -> str:
    """The operation that an output comes from, behind those that only change shape or type."""
    made = {output: node for node in proto.graph.node for output in node.output}
    while (node := made.get(name)) is not None and node.op_type in _PASSED:
        name = node.input[0]
    return node.op_type if node is not None else ""


def as_probabilities(values: np.ndarray, ending: str) -> np.ndarray:
    """(n, K) float32 that sum to 1, from a network's own answers, in plain NumPy. One value is the second class'."""
    rows = values.reshape(len(values), -1).astype(np.float32)
    if rows.shape[1] == 1:
        second = np.exp(-np.logaddexp(0, -rows)) if ending == "logits" else rows
        return np.concatenate([1 - second, second], axis=1)
    if ending == "logits":
        powers = np.exp(rows - rows.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    return np.exp(rows) if ending == "log-probabilities" else rows
