"""An ONNX file of any origin -> one ONNX model in memory, with its weights inside, of an opset that artifacts have.

Says in one sentence what is wrong with a file. Knows nothing of pictures.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import external_data_helper, helper, version_converter

from training.artifact.errors import ExportError

OLDEST, OPSET = 7, 15  # the oldest that the converter reads; what an artifact has at least
RESIZES = 11  # from which on Resize says how it finds its places
IR = 8  # the file format that goes with OPSET
MOST_BYTES = 2**31 - 1  # protobuf's limit for one message, and so for a file that holds its weights


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model with its weights inside, as its author wrote it. Raises ExportError."""
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except OSError as err:
        raise ExportError(f"{path}: cannot be read ({err.strerror})") from err
    except DecodeError as err:
        raise ExportError(f"{path}: is truncated or no ONNX file ({first_line(err)})") from err
    if not proto.graph.node or not proto.opset_import:
        raise ExportError(f"{path}: is truncated or no ONNX file (it holds no graph)")
    outside = [tensor for tensor in _tensors(proto) if external_data_helper.uses_external_data(tensor)]
    for tensor in outside:
        _check_weights(path, tensor)
    try:
        for tensor in outside:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    except (OSError, ValueError, onnx.checker.ValidationError) as err:
        raise ExportError(f"{path}: its weights beside it cannot be read ({first_line(err)})") from err
    if (size := proto.ByteSize()) > MOST_BYTES:
        raise ExportError(f"{path}: has {size / 1e9:.1f} GB of weights; one ONNX file holds at most 2.1 GB")
    return proto


def _check_weights(path: Path, tensor: onnx.TensorProto) -> None:
    """Raise ExportError unless the file that holds the tensor lies beside the model and is long enough."""
    entry = {item.key: item.value for item in tensor.external_data}
    location = Path(entry.get("location", ""))
    file = path.parent / location
    if location.is_absolute() or ".." in location.parts or not entry.get("location"):
        raise ExportError(f"{path}: names weights outside its own folder ({location})")
    if not file.is_file():
        raise ExportError(f"{path}: its weights lie in {location}, which is missing beside it")
    need = int(entry.get("offset", 0)) + int(entry.get("length", 0))
    if (have := file.stat().st_size) < need:
        raise ExportError(f"{file}: is truncated: the model needs {need:,} bytes of weights, the file has {have:,}")


def graphs_in(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Those that a node holds, as an If's branches and a Scan's body."""
    return [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else []) + list(a.graphs)]


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """It, and those inside of its nodes at any depth."""
    yield graph
    for node in graph.node:
        for inner in graphs_in(node):
            yield from all_graphs(inner)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant in the model, those in nodes and in graphs inside of graphs too."""
    for graph in all_graphs(proto.graph):
        yield from graph.initializer
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def opset(proto: onnx.ModelProto) -> int:
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)


def modern(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in OPSET or later, with initializers that are no inputs. Raises ExportError."""
    if (version := opset(proto)) < OLDEST:
        raise ExportError(f"the file is of opset {version}; export it with opset {OPSET} or later")
    if version < OPSET:
        try:
            proto = version_converter.convert_version(proto, OPSET)
        except Exception as err:  # the converter raises what it likes
            reason = f"the file is of opset {version} and cannot be converted to {OPSET} ({first_line(err)})"
            raise ExportError(f"{reason}; export it with opset {OPSET} or later") from err
        if version < RESIZES:
            _resize_as_before(proto.graph)
    else:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        proto = copy
    proto.ir_version = max(proto.ir_version, IR)
    names = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in names]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


def _resize_as_before(graph: onnx.GraphProto) -> None:
    """Before opset RESIZES a picture was resized from its corner, and a place rounded down. The converter leaves that
    out, and the default has become another."""
    for node in graph.node:
        if node.op_type == "Resize":
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(helper.make_attribute("nearest_mode", "floor"))


def session(model: Path | onnx.ModelProto, threads: int = 0) -> onnxruntime.InferenceSession:
    """ONNX Runtime's CPU session of a file or a model. Raises ExportError with the runtime's reason."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # unused initializers and the like are of no use to whoever publishes
    options.intra_op_num_threads = threads
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as err:  # ONNX Runtime has a dozen classes without a common base
        raise ExportError(f"ONNX Runtime cannot load the model: {first_line(err)}") from err


def first_line(err: BaseException) -> str:
    """The whole message, in one line."""
    return " ".join(str(err).split()) or type(err).__name__


logging.getLogger("onnx").setLevel(logging.ERROR)
