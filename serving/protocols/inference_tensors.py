"""The body of an Open Inference Protocol request -> pictures and wanted outputs; answers -> the body of its response.

Implements inference_rest.md of kserve/open-inference-protocol, with Triton's extensions for binary tensors
(protocol_binary_data.md) and classification (protocol_classification.md). Knows neither HTTP nor which model answers:
a caller says what the model takes and gives.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.edge.http1 import write_json
from serving.errors import InvalidRequest
from serving.protocols import tensors
from serving.protocols.parsing import from_base64, load_object
from serving.protocols.tensors import shown

INPUT, PROBABILITIES, UNFAMILIARITY, UNSURE = "image", "probabilities", "unfamiliarity", "unsure"
DATATYPES = frozenset(
    [
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "BF16",
        "FP32",
        "FP64",
        "BYTES",
    ]
)  # of the protocol; this service takes two of them


class Model(NamedTuple):
    """What a request may hold: `shape` is (H, W, C), `outputs` are the names that can be asked for."""

    shape: tuple[int, int, int]
    outputs: tuple[str, ...]
    most: int  # pictures in one request


class Wanted(NamedTuple):
    """One output of the response. `classes` > 0 asks for so many "value:index:label" in place of the tensor."""

    name: str
    binary: bool
    classes: int


class Infer(NamedTuple):
    """`pictures` is (N, H, W, C) uint8, or the files of N pictures."""

    id: str | None
    pictures: np.ndarray | list[bytes]
    outputs: tuple[Wanted, ...]
    least: float | str | None  # the request's `min_probability`


class Head(NamedTuple):
    """The JSON of a request, checked: what is asked for, and the one tensor that is given."""

    id: str | None
    outputs: tuple[Wanted, ...]
    least: float | str | None
    kind: str  # UINT8 or BYTES
    shape: tuple[int, ...]
    binary_bytes: int | None  # of the tensor, behind the JSON; None where it is in it
    data: Any  # of the tensor, where it is in the JSON


def read(body: bytes, json_bytes: int | None, model: Model) -> Infer:
    """A request. `json_bytes` is its Inference-Header-Content-Length, or None. Raises InvalidRequest."""
    if json_bytes == 0:
        return _raw(body, model)
    if json_bytes is None:
        head, tail = _read_head(body, model), memoryview(b"")
    else:
        if json_bytes > len(body):
            raise InvalidRequest(
                f"Inference-Header-Content-Length is {json_bytes:,}, but the body has {len(body):,} bytes"
            )
        text, tail = body[:json_bytes], memoryview(body)[json_bytes:]
        head = _read_again_and_again(text, model) if json_bytes <= REMEMBERED_BYTES else _read_head(text, model)
    return Infer(head.id, _pictures(head, tail), head.outputs, head.least)


def _read_head(text: bytes, model: Model) -> Head:
    content = load_object(text)
    given = content.get("inputs")
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        count = len(given) if isinstance(given, list) else 0
        raise InvalidRequest(f"`inputs` must be a list of one tensor, `{INPUT}`, got {count}")
    identity = content.get("id")
    if identity is not None and not (isinstance(identity, str) and _is_unicode(identity)):
        raise InvalidRequest(f"`id` must be text, got {shown(identity)}")
    parameters = _parameters(content)
    kind, shape = _checked(given[0], model)
    size = _parameters(given[0]).get("binary_data_size")
    if size is not None and "data" in given[0]:
        raise InvalidRequest("a tensor has either `data` or `binary_data_size`")
    if size is not None and type(size) is not int:
        raise InvalidRequest(f"`binary_data_size` must be a whole number, got {shown(size)}")
    outputs = _outputs(content, parameters, model)
    return Head(identity, outputs, _least(parameters), kind, shape, size, given[0].get("data"))


def _is_unicode(text: str) -> bool:
    """JSON can name half of a character, as in "\\ud800", which no answer can repeat."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


REMEMBERED_BYTES = 512  # longer heads are parsed each time: a client must not fill the memory with them
_read_again_and_again = functools.lru_cache(256)(_read_head)  # a client sends the same with each picture


def _raw(body: bytes, model: Model) -> Infer:
    """A raw binary request: no JSON at all; the body is one picture, as pixels or as a file."""
    outputs = tuple(Wanted(name, True, 0) for name in model.outputs if name != UNSURE)
    if len(body) == math.prod(model.shape):
        return Infer(None, tensors.uint8_from_bytes(memoryview(body), (1, *model.shape)), outputs, None)
    prefixed = len(body) > 4 and int.from_bytes(body[:4], "little") == len(body) - 4
    return Infer(None, [body[4:] if prefixed else body], outputs, None)


def _checked(tensor: dict[str, Any], model: Model) -> tuple[str, tuple[int, ...]]:
    """The datatype and shape of the input."""
    name, kind, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    if name != INPUT:
        raise InvalidRequest(f"unexpected inference input {shown(name)}; the model has `{INPUT}`")
    if kind not in ("UINT8", "BYTES"):
        known = "" if isinstance(kind, str) and kind in DATATYPES else ", which is no datatype of the protocol"
        raise InvalidRequest(
            f"the input `{INPUT}` is UINT8 (pixels) or BYTES (encoded pictures), got {shown(kind)}{known}"
        )
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        got = shape[:8] if isinstance(shape, list) and all(type(size) is int for size in shape) else shown(shape)
        raise InvalidRequest(f"`shape` must be a list of whole numbers of at least 0, got {got}")
    if kind == "UINT8" and tuple(shape[1:]) != model.shape:
        raise InvalidRequest(f"the input `{INPUT}` has the shape {[-1, *model.shape]}, got {shape[:8]}")
    if kind == "BYTES" and (not shape or len(shape) > 2 or any(size != 1 for size in shape[1:])):
        raise InvalidRequest(f"encoded pictures have the shape [N] or [N, 1], got {shape[:8]}")
    count = shape[0]
    if not 1 <= count <= model.most:
        raise InvalidRequest(f"a request holds 1 to {model.most} pictures, got {count:,}")
    return kind, tuple(shape)


def _pictures(head: Head, tail: memoryview) -> np.ndarray | list[bytes]:
    if head.binary_bytes is None:
        if len(tail):
            raise InvalidRequest(f"unexpected additional input data: {len(tail):,} bytes behind the JSON")
        return _from_json(head)
    if head.binary_bytes != len(tail):
        raise InvalidRequest(
            f"`binary_data_size` is {shown(head.binary_bytes)}, but {len(tail):,} bytes follow the JSON"
        )
    if head.kind == "BYTES":
        return tensors.elements_from_bytes(tail, head.shape[0])
    return tensors.uint8_from_bytes(tail, head.shape)


def _from_json(head: Head) -> np.ndarray | list[bytes]:
    data = head.data
    if data is None:
        raise InvalidRequest("the input has neither `data` nor `binary_data_size`")
    if head.kind == "UINT8":
        return tensors.uint8_from_json(data, head.shape)
    rows = data if isinstance(data, list) else []
    elements = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]
    if len(elements) != head.shape[0]:
        raise InvalidRequest(f"the shape {list(head.shape)} needs {head.shape[0]:,} pictures, got {len(elements):,}")
    # JSON text is UTF-8, which no picture's file is: an element can only be base64.
    return [from_base64(element, f"`data`[{i}]") for i, element in enumerate(elements)]


def _outputs(head: dict[str, Any], parameters: dict[str, Any], model: Model) -> tuple[Wanted, ...]:
    all_binary = _flag(parameters, "binary_data_output", False)
    given = head.get("outputs")
    if given is None or given == []:
        return tuple(Wanted(name, all_binary, 0) for name in model.outputs if name != UNSURE)
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise InvalidRequest("`outputs` must be a list of objects with a `name`")
    wanted = []
    for one in given:
        name, own = one.get("name"), _parameters(one)
        if name not in model.outputs:
            raise InvalidRequest(f"unexpected inference output {shown(name)}; the model has {', '.join(model.outputs)}")
        classes = own.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise InvalidRequest(f"`classification` must be a whole number, got {shown(classes)}")
        if classes and name != PROBABILITIES:
            raise InvalidRequest(f"`classification` goes with the output `{PROBABILITIES}`")
        wanted.append(Wanted(str(name), _flag(own, "binary_data", all_binary), classes))
    if len({one.name for one in wanted}) < len(wanted):
        raise InvalidRequest("an output is asked for twice")
    return tuple(wanted)


def _parameters(content: dict[str, Any]) -> dict[str, Any]:
    parameters = content.get("parameters")
    if parameters is None:  # MLServer's own types write null for whatever is not given
        return {}
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"`parameters` must be an object, got {shown(parameters)}")
    return parameters


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"`{name}` must be true or false, got {shown(value)}")
    return value


def _least(parameters: dict[str, Any]) -> float | str | None:
    value = parameters.get("min_probability")
    if value is None or value == "card":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidRequest(f'`min_probability` must be a number from 0 to 1, or "card", got {shown(value)}')
    return float(value)


class Column(NamedTuple):
    """One output of all pictures: a float32 array, or a list of texts."""

    datatype: str
    shape: tuple[int, ...]
    values: np.ndarray | list[str]  # an array need not have the shape, but holds as many numbers


class Answered(NamedTuple):
    """What a response says beside its outputs. `unsure` has the reasons, empty where there is none."""

    model: str
    version: int
    id: str | None
    unsure: str


def write(answered: Answered, outputs: Sequence[Wanted], columns: Sequence[Column]) -> tuple[bytes, int | None]:
    """The response's body, and how many bytes of it are JSON where binary tensors follow. `columns` has one for each of
    `outputs`."""
    forms: list[Form] = []
    tail: list[bytes] = []
    for wanted, column in zip(outputs, columns, strict=True):
        size = None
        if wanted.binary:
            tail.append(raw := _raw_bytes(column.values))
            size = len(raw)
        forms.append(Form(wanted.name, column.datatype, column.shape, size))
    if len(tail) == len(columns) and not answered.id:
        head = _write_again_and_again(answered, tuple(forms))  # but for the numbers each response is the same
    else:
        listed = [
            None if wanted.binary else _listed(column.values) for wanted, column in zip(outputs, columns, strict=True)
        ]
        head = _write_head(answered, tuple(forms), listed)
    return b"".join([head, *tail]), len(head) if tail else None


class Form(NamedTuple):
    """An output without its values; `binary_bytes` is None where they are in the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    binary_bytes: int | None


def _write_head(answered: Answered, forms: tuple[Form, ...], data: Sequence[list[Any] | None] = ()) -> bytes:
    content: dict[str, Any] = {"model_name": answered.model, "model_version": str(answered.version)}
    if answered.id:
        content["id"] = answered.id
    if answered.unsure:
        content["parameters"] = {UNSURE: answered.unsure}
    content["outputs"] = outputs = []
    for index, form in enumerate(forms):
        output: dict[str, Any] = {"name": form.name, "datatype": form.datatype, "shape": form.shape}
        if form.binary_bytes is None:
            output["data"] = data[index]
        else:
            output["parameters"] = {"binary_data_size": form.binary_bytes}
        outputs.append(output)
    return write_json(content).encode()


_write_again_and_again = functools.lru_cache(256)(_write_head)


_FLOATS = np.dtype("<f4")


def _raw_bytes(values: np.ndarray | list[str]) -> bytes:
    if isinstance(values, np.ndarray):
        return values.tobytes() if values.dtype == _FLOATS else values.astype(_FLOATS).tobytes()
    return tensors.bytes_from_elements([text.encode() for text in values])


def _listed(values: np.ndarray | list[str]) -> list[Any]:
    return values.ravel().tolist() if isinstance(values, np.ndarray) else values


def classification(probabilities: np.ndarray, labels: Sequence[str], classes: int) -> Column:
    """The best `classes` of each row as "value:index:label", most probable first."""
    classes = min(classes, probabilities.shape[1])
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :classes]
    texts = [f"{row[i]:f}:{i}:{labels[i]}" for row, order in zip(probabilities, best, strict=True) for i in order]
    return Column("BYTES", (len(probabilities), classes), texts)
