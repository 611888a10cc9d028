"""Reading and writing safetensors files without holding more than one tensor: header, metadata, bounded slices.

Our own reader because the library's NumPy front end refuses bfloat16 and float8 and maps the whole file into memory.
Pickle-based files are recognised and refused; they are never opened as pickles.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from ltx_jax.errors import UserError

DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
MAX_HEADER = 100_000_000


class SafetensorsFile(Mapping[str, np.ndarray]):
    """A read-only mapping from tensor name to array; each access reads just that tensor.

    metadata: the file's string-to-string metadata. Raises UserError for a file that is missing, truncated, a pickle,
    or otherwise no safetensors file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        header, self._start = _read_header(self.path)
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self._entries = header
        _check_extent(self.path, self._entries, self._start)

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        begin, end = entry["data_offsets"]
        with open(self.path, "rb") as file:
            file.seek(self._start + begin)
            data = file.read(end - begin)
        return np.frombuffer(bytearray(data), DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return tuple(self._entries[name]["shape"])

    def json(self, key: str) -> Any:
        """The metadata value `key` parsed as JSON; the raw string where it is none; None where it is absent."""
        text = self.metadata.get(key)
        if text is None:
            return None
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` atomically: to a temporary file beside `path`, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, temporary, dict(metadata or {}))
    os.replace(temporary, path)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    if not path.is_file():
        raise UserError(f"There is no file '{path}'.")
    size = path.stat().st_size
    with open(path, "rb") as file:
        first, opening = file.read(8), file.read(1)
        file.seek(8)
        # A header length may begin with these bytes as well (128 does); only a safetensors header goes on with "{".
        if opening != b"{" and (first[:2] == b"PK" or first[:1] == b"\x80"):
            raise UserError(
                f"'{path}' is a pickle-based checkpoint, which can run code and is never opened: "
                "convert it to safetensors."
            )
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= MAX_HEADER:
            raise UserError(f"'{path}' is no safetensors file (its header length is nonsense).")
        if length + 8 > size:
            raise UserError(f"'{path}' is truncated inside its header ({size} bytes); download or copy it again.")
        try:
            header = json.loads(file.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise UserError(f"'{path}' is no safetensors file (its header is not JSON).") from None
    if not isinstance(header, dict):
        raise UserError(f"'{path}' is no safetensors file (its header is not an object).")
    return header, 8 + length


def _check_extent(path: Path, entries: Mapping[str, Any], start: int) -> None:
    end = 0
    for name, entry in entries.items():
        try:
            begin, stop = entry["data_offsets"]
            count = int(np.prod(entry["shape"], dtype=np.int64))
            dtype = DTYPES.get(entry["dtype"])
        except (TypeError, KeyError, ValueError):
            raise UserError(f"'{path}' is damaged: the header entry of '{name}' makes no sense.") from None
        if dtype is None:
            raise UserError(f"'{path}' stores '{name}' as {entry['dtype']}, which is not supported.")
        if begin < 0 or stop - begin != count * np.dtype(dtype).itemsize:
            raise UserError(f"'{path}' is damaged: the size of '{name}' does not match its shape.")
        end = max(end, stop)
    size = path.stat().st_size
    if start + end > size:
        raise UserError(
            f"'{path}' is truncated: it has {size} bytes and needs {start + end}; download or copy it again."
        )
