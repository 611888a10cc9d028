"""Reading and writing safetensors files without holding more than one tensor: header, metadata, bounded slices.

Our own reader because the library's NumPy front end refuses bfloat16 and float8 and maps the whole file into memory.
Files of other formats are recognised and refused by name; pickles are never opened as such.
"""

import concurrent.futures
import functools
import hashlib
import json
import math
import os
import struct
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from ltx_jax.errors import UserError
from ltx_jax.files import read_json

DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000
PIECE = 16 << 20  # bytes that one thread reads at a time
ALIGNED = 64  # bytes; JAX takes such host memory as it is on a CPU, and copies other
AGAIN = "download or copy it again"
Rows = tuple[int, int]


class Tensors(Mapping[str, np.ndarray]):
    """Arrays by name, each read when it is asked for; shapes and dtypes are known before.

    held: the names, in order and quick to look up. metadata: strings by name.
    """

    held: Collection[str] = ()
    metadata: Mapping[str, str] = {}
    path: Path  # of the file, or of the folder, for messages

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor without reading it."""

    @abstractmethod
    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis."""

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def __contains__(self, name: object) -> bool:
        return name in self.held  # Mapping's own would read it

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor."""
        return math.prod(self.shape(name)) * self.dtype(name).itemsize

    def json(self, key: str) -> Any:
        """The metadata value `key` parsed as JSON; the raw string where it is none; None where it is absent."""
        text = self.metadata.get(key)
        if text is None:
            return None
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text


class SafetensorsFile(Tensors):
    """The tensors of one file; each access reads just that tensor.

    Raises UserError for a file that is missing, truncated, of another format, or whose header contradicts itself.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        header, self._start = _read_header(self.path)
        metadata = header.pop("__metadata__", None)
        self.metadata = metadata if isinstance(metadata, dict) else {}
        self.held = self._entries = header
        self._sums = read_manifest(self.path)
        _check_entries(self.path, self._entries, self._start)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return tuple(self._entries[name]["shape"])

    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor without reading it."""
        return np.dtype(DTYPES[self._entries[name]["dtype"]])

    def offset(self, name: str) -> int:
        """Where a tensor begins, in bytes from the beginning of the file."""
        return self._start + self._entries[name]["data_offsets"][0]

    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis, read in pieces by several threads.

        Raises UserError where a manifest beside the file has another checksum for the tensor.
        """
        if self._sums is None:
            return self._read(name, rows)
        whole = self._read(name, None)
        check_sum(self.path, name, whole, self._sums)
        return whole if rows is None else whole[rows[0] : rows[1]]

    def _read(self, name: str, rows: Rows | None) -> np.ndarray:
        shape, dtype, begin = self.shape(name), self.dtype(name), self.offset(name)
        if rows is not None:
            row = math.prod(shape[1:]) * dtype.itemsize
            shape, begin = (rows[1] - rows[0], *shape[1:]), begin + rows[0] * row
        array = aligned(math.prod(shape) * dtype.itemsize)
        _read_into(self.path, array, begin)
        return array.view(dtype).reshape(shape)


def checksum(array: np.ndarray) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))).hexdigest()


def check_sum(path: Path, name: str, whole: np.ndarray, sums: Mapping[str, str] | None) -> None:
    """Raise UserError where a tensor's checksum is another than its manifest says; sums: see `read_manifest`."""
    if (sums or {}).get(name, "") not in ("", checksum(whole)):
        raise UserError(f"'{path}' is damaged: '{name}' has another checksum than its manifest says; {AGAIN}.")


def manifest_of(path: Path) -> Path:
    """Where the checksums of a file's tensors lie, as JSON {name: SHA-256}, if there are any."""
    return path.with_name(f"{path.name}.sha256.json")


def read_manifest(path: Path) -> dict[str, str] | None:
    """The checksums beside a file; None where there are none."""
    beside = manifest_of(path)
    return read_json(beside) if beside.is_file() else None


def aligned(size: int) -> np.ndarray:
    """Writable memory of `size` bytes at an address that JAX takes as it is."""
    raw = np.empty(size + ALIGNED, np.uint8)
    begin = -raw.ctypes.data % ALIGNED
    return np.frombuffer(memoryview(raw)[begin : begin + size], np.uint8)


@functools.cache
def _readers() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1), "read")


def _read_into(path: Path, array: np.ndarray, begin: int) -> None:
    """Fill `array`, bytes, from the place `begin` of the file."""
    with open(path, "rb", buffering=0) as file:

        def piece(at: int) -> None:
            view = memoryview(array)[at : at + PIECE]
            while len(view):
                done = os.preadv(file.fileno(), [view], begin + at)
                if not done:
                    raise UserError(f"'{path}' has become shorter while it was read; {AGAIN}.")
                at, view = at + done, view[done:]

        starts = range(0, array.size, PIECE)
        if len(starts) <= 1:
            return piece(0)
        for done in concurrent.futures.as_completed([_readers().submit(piece, at) for at in starts]):
            done.result()


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` atomically: to a temporary file beside `path`, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, temporary, dict(metadata or {}))
    os.replace(temporary, path)


def listed(names: Iterable[str], shown: int = 10) -> str:
    """The first few names, quoted, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(f"'{name}'" for name in names[:shown]) + more


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    if not path.is_file():
        raise UserError(f"There is no file '{path}'.")
    size = path.stat().st_size
    with open(path, "rb") as file:
        first, opening = file.read(8), file.read(1)
        file.seek(8)
        if opening != b"{":  # a header length may begin as other formats do (128 as a pickle)
            _refuse_other_formats(path, first)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= MAX_HEADER:
            raise UserError(f"'{path}' is no safetensors file (its header length is nonsense).")
        if length + 8 > size:
            raise UserError(f"'{path}' is truncated inside its header ({size} bytes); {AGAIN}.")
        try:
            header = json.loads(file.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise UserError(f"'{path}' is no safetensors file (its header is not JSON).") from None
    if not isinstance(header, dict):
        raise UserError(f"'{path}' is no safetensors file (its header is not an object).")
    return header, 8 + length


def _refuse_other_formats(path: Path, first: bytes) -> None:
    if first[:2] == b"PK" or first[:1] == b"\x80":
        raise UserError(
            f"'{path}' is a pickle-based checkpoint, which can run code and is never opened: convert it to safetensors."
        )
    if first[:4] == b"GGUF":
        raise UserError(f"'{path}' is a GGUF file, which is not read here; give the safetensors file of the model.")
    if first.startswith(b"version "):  # "version https://git-lfs..."
        raise UserError(f"'{path}' is a pointer of Git LFS, not the file; fetch that with `git lfs pull`.")


def _check_entries(path: Path, entries: Mapping[str, Any], start: int) -> None:
    """The tensors must fill the rest of the file, without overlaps and holes; else the header is not of this file."""
    spans = sorted((*_span(path, name, entry), name) for name, entry in entries.items())
    end = 0
    for begin, stop, name in spans:
        if begin != end:
            what = "overlaps the one before it" if begin < end else f"leaves a hole of {begin - end} bytes before it"
            raise UserError(f"'{path}' is damaged: its header lies about offsets, '{name}' {what}; {AGAIN}.")
        end = stop
    size = path.stat().st_size
    if start + end > size:
        raise UserError(f"'{path}' is truncated: it has {size} bytes and needs {start + end}; {AGAIN}.")
    if start + end < size:
        raise UserError(
            f"'{path}' is damaged: {size - start - end} bytes at its end belong to no tensor of its header; {AGAIN}."
        )


def _span(path: Path, name: str, entry: Any) -> tuple[int, int]:
    try:
        begin, stop = entry["data_offsets"]
        count = math.prod(entry["shape"])
        dtype = DTYPES.get(entry["dtype"])
        sensible = 0 <= begin <= stop and min((0, *entry["shape"])) >= 0
    except (TypeError, KeyError, ValueError):
        raise UserError(f"'{path}' is damaged: the header entry of '{name}' makes no sense.") from None
    if dtype is None:
        raise UserError(f"'{path}' stores '{name}' as {entry['dtype']}, which is not supported.")
    if not sensible or stop - begin != count * np.dtype(dtype).itemsize:
        raise UserError(f"'{path}' is damaged: the size of '{name}' does not match its shape.")
    return begin, stop
