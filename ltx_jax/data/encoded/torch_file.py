"""Reading `.pt` files without running them: tensors, containers, numbers and strings, and nothing else.

A .pt file is a zip of raw storages and of a pickle that says how tensors lie in them. A pickle may name any function
to be called; the reader here knows the few names that tensors need, gives its own harmless meaning to each, and
refuses the file at the first other name.
"""

import collections
import io
import math
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ltx_jax.errors import UserError

STORAGES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16,
    "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip
MAX_PICKLE = 1 << 24  # bytes
MAX_NUMBERS = 1 << 30  # of one tensor


def read_torch_file(path: str | os.PathLike[str], *, values: bool = True) -> Any:
    """What was saved, tensors as arrays. values False: arrays of the right shape and type, all zeros, read at once.

    Raises UserError for a file that is missing, truncated, of the old format, or holds anything but tensors, dicts,
    lists, numbers and strings.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no file '{path}'.")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, values)
    except _Refused as error:
        raise UserError(f"'{path}' holds {error}, which is not read from a .pt file.") from None
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, OSError, IndexError, KeyError, ValueError, TypeError,
            AttributeError, OverflowError) as error:  # fmt: skip
        raise UserError(f"'{path}' is no .pt file that can be read ({_reason(error)}).") from None


class _Refused(Exception):
    """A name in the pickle that is not on the list."""


def _read(archive: zipfile.ZipFile, values: bool) -> Any:
    name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
    if name is None:
        raise ValueError("it has no data.pkl")
    if archive.getinfo(name).file_size > MAX_PICKLE:
        raise ValueError("its data.pkl is too large")
    root = name.removesuffix("data.pkl")
    order = archive.read(root + "byteorder") if root + "byteorder" in archive.namelist() else b"little"
    if order != b"little":
        raise ValueError(f"its byte order is {order.decode(errors='replace')}")
    return _Unpickler(archive, root, values).load()


class _Unpickler(pickle.Unpickler):
    """Knows only what tensors and plain containers need."""

    def __init__(self, archive: zipfile.ZipFile, root: str, values: bool):
        super().__init__(io.BytesIO(archive.read(root + "data.pkl")))
        self._archive, self._root, self._values = archive, root, values

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "torch" and global_name in STORAGES:
            return _Kind(np.dtype(STORAGES[global_name]))
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild, ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch", "Size"): tuple,
        }  # fmt: skip
        if (module_name, global_name) not in known:
            raise _Refused(f"'{module_name}.{global_name}'")
        return known[module_name, global_name]

    def persistent_load(self, pid: Any) -> "_Storage":
        tag, kind, key, _, count = pid
        if tag != "storage" or not isinstance(kind, _Kind):
            raise ValueError("a storage is described wrongly")
        entry = self._archive.getinfo(f"{self._root}data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < count * kind.dtype.itemsize:
            raise ValueError("a storage is truncated")
        data = np.frombuffer(self._archive.read(entry), kind.dtype, count) if self._values and count else None
        return _Storage(kind.dtype, count, data)


class _Kind:
    """A storage's type; in the pickle it stands for a class, but calling it does nothing."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class _Storage:
    """count numbers; data: None where values are not wanted."""

    def __init__(self, dtype: np.dtype, count: int, data: np.ndarray | None):
        self.dtype, self.count, self.data = dtype, count, data


def _rebuild(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """The tensor that lies in a storage; copies. Raises ValueError when it does not lie inside."""
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ValueError("a tensor is described wrongly")
    if offset < 0 or min((*size, *stride), default=0) < 0 or math.prod(size) > MAX_NUMBERS:
        raise ValueError("a tensor has an impossible size")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.count:
        raise ValueError("a tensor reaches beyond its storage")
    if storage.data is None or not math.prod(size):
        return np.broadcast_to(np.zeros((), storage.dtype), size)
    steps = tuple(step * storage.dtype.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage.data[offset:], size, steps).copy()


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:100] if str(error) else type(error).__name__
