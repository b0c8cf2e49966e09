"""Tensors of a request body -> uint8 arrays or encoded pictures, each checked before memory is taken for it.

JSON tensors are nested or flat lists. Binary tensors are raw little-endian bytes. Knows neither HTTP nor a model: a
caller says which shape the model takes.
"""

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from serving.errors import InvalidRequest
from serving.protocols.json_pieces import slices

MAX_SHOWN = 80  # characters of a client's value that a message repeats
PIECE = 32 * 1024  # elements that are read at once
_LENGTH = struct.Struct("<I")  # in front of each element of a binary BYTES tensor


def uint8_from_json(data: Any, shape: Sequence[int]) -> np.ndarray:
    """Nested or flat lists of whole numbers from 0 to 255, row-major -> an array of `shape`. Raises InvalidRequest."""
    flat = data
    sizes: list[int] = []
    while isinstance(flat, list) and flat and isinstance(flat[0], list):
        if len(sizes) >= len(shape):
            raise InvalidRequest(f"the data is nested deeper than its shape {list(shape)}")
        sizes.append(len(flat[0]))
        if not all(isinstance(row, list) and len(row) == sizes[-1] for row in flat):
            raise InvalidRequest("the rows of the data differ in length")
        flat = _joined(flat)
    if not isinstance(flat, list):
        raise InvalidRequest(f"the data must be a list of numbers, got {shown(flat)}")
    if sizes and [len(data), *sizes] != list(shape):
        raise InvalidRequest(f"the data has the shape {[len(data), *sizes]}, not {list(shape)}")
    count = math.prod(shape)
    if len(flat) != count:
        raise InvalidRequest(f"the shape {list(shape)} needs {count:,} numbers, got {len(flat):,}")
    try:
        # bytes() checks at C speed that each is a whole number from 0 to 255.
        pixels = b"".join([bytes(flat[part]) for part in slices(len(flat), PIECE)])
    except (TypeError, ValueError) as err:
        raise InvalidRequest("the data must be whole numbers from 0 to 255") from err
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _joined(rows: list[list[Any]]) -> list[Any]:
    """The elements of all rows."""
    elements: list[Any] = []
    for part in slices(len(rows), PIECE):
        elements.extend(chain.from_iterable(rows[part]))
    return elements


def uint8_from_bytes(data: memoryview, shape: Sequence[int]) -> np.ndarray:
    """Raw bytes, row-major -> an array of `shape`, without a copy. Raises InvalidRequest."""
    count = math.prod(shape)
    if len(data) != count:
        raise InvalidRequest(f"the shape {list(shape)} needs {count:,} bytes, got {len(data):,}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def elements_from_bytes(data: memoryview, count: int) -> list[bytes]:
    """The elements of a binary BYTES tensor: a length of 4 bytes, little-endian, before each. Raises InvalidRequest."""
    elements: list[bytes] = []
    at, end = 0, len(data)
    while at < end and len(elements) < count:
        start = at + _LENGTH.size
        if start > end:
            raise InvalidRequest("a BYTES tensor ends inside the length of an element")
        (size,) = _LENGTH.unpack_from(data, at)
        at = start + size
        if at > end:
            raise InvalidRequest(f"an element of a BYTES tensor is said to have {size:,} bytes; {end - start:,} follow")
        elements.append(bytes(data[start:at]))
    if len(elements) != count or at != end:
        raise InvalidRequest(f"the BYTES tensor does not hold the {count:,} elements that its shape says")
    return elements


def bytes_from_elements(elements: Sequence[bytes]) -> bytes:
    """The inverse of `elements_from_bytes`."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def shown(value: Any) -> str:
    """A client's value in a message: short and printable; of a list or an object only what it is."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return ascii(value)[:MAX_SHOWN] if not isinstance(value, str) else ascii(value[:MAX_SHOWN])
