"""A PyTorch checkpoint of the old kind (before version 1.6, no zip) -> arrays by name, without PyTorch.

The file is a row of pickles followed by the raw storages. Only the two functions and the storage types that a state
dict is made of are known to the unpickler here; any other name in the file is refused, so that nothing is run.
"""

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_TYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class _Tensor(NamedTuple):
    """A strided view of a storage: offset, shape and strides count elements."""

    key: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage: tuple[str, np.dtype[Any]], offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    return _Tensor(*storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint of weights")

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype[Any]]:
        kind, dtype, key, _location, _numel, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"{kind!r} is no storage that is known here")
        return key, dtype


def read(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of the state dict. Raises ValueError for what is no checkpoint of the old kind."""
    with path.open("rb") as file:
        try:
            magic, protocol, _ = (_Unpickler(file).load() for _ in range(3))
            if (magic, protocol) != (_MAGIC, _PROTOCOL):
                raise ValueError(f"{path}: no PyTorch checkpoint of the old kind")
            tensors = _Unpickler(file).load()
            keys = _Unpickler(file).load()
            types = {tensor.key: tensor.dtype for tensor in tensors.values()}
            storages = {key: _storage(file, types[key]) for key in keys}
        except (pickle.UnpicklingError, EOFError, struct.error, KeyError, TypeError) as err:
            raise ValueError(f"{path}: no PyTorch checkpoint of weights ({err})") from err
    return {name: _array(storages[tensor.key], tensor) for name, tensor in tensors.items()}


def _storage(file: BinaryIO, dtype: np.dtype[Any]) -> np.ndarray:
    (count,) = struct.unpack("<q", file.read(8))
    return np.frombuffer(file.read(count * dtype.itemsize), dtype)


def _array(storage: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """The view as an array of its own. Raises ValueError if it reaches beyond its storage."""
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min(tensor.shape, default=1) > 0 and not 0 <= last < len(storage):
        raise ValueError(f"a tensor of shape {tensor.shape} reaches beyond its storage of {len(storage)} elements")
    strides = tuple(stride * storage.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()
