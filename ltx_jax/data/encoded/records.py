"""Prepared clips on disk: one record per clip, many records per ArrayRecord shard, an index of all shards.

A record is a safetensors file in memory: an 8-byte length, a JSON header, the arrays. Its names and shapes:
video (T, C) and audio (A, C') normalised tokens, video_features (n, E) and, where the release makes others for sound,
audio_features (n, E'): the feature extractor's output at the n real tokens of the caption. The metadata are strings:
caption, has_audio ("0" or "1"), file, start (seconds).
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from ltx_jax.checkpoints.safetensors import DTYPES
from ltx_jax.errors import UserError
from ltx_jax.files import to_json

NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
ENDING = ".arrayrecord"


def pack(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Arrays and strings as one record; equal inputs give equal bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    blobs, end = [], 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        blobs.append(array.tobytes())
        offsets, end = [end, end + len(blobs[-1])], end + len(blobs[-1])
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
    text = to_json(header, separators=(",", ":"))
    return b"".join([struct.pack("<Q", len(text)), text, *blobs])


def unpack(record: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays (read-only views of the record) and strings that `pack` took. Raises UserError for other bytes."""
    try:
        (length,) = struct.unpack_from("<Q", record)
        header = json.loads(record[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        arrays = {}
        for name, entry in header.items():
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            arrays[name] = np.frombuffer(record[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise UserError("A record of the prepared clips is damaged; delete its shard and prepare again.") from None
    return arrays, metadata


def write_shard(path: Path, records: Iterable[bytes]) -> dict[str, Any]:
    """Write a shard that appears whole or not at all; returns its {records, bytes, sha256}.

    The hash is of the records. One record per chunk, so that a reader decodes only what it asks for.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    digest, count = hashlib.sha256(), 0
    writer = ArrayRecordWriter(str(temporary), "group_size:1")
    try:
        for record in records:
            writer.write(record)
            digest.update(struct.pack("<Q", len(record)) + record)
            count += 1
    finally:
        writer.close()
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return {"records": count, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


class Journal:
    """A file of JSON lines that is only appended to; a line that a killed process left unfinished does not count."""

    def __init__(self, path: Path):
        self._path = path
        self.lines: list[Any] = []
        whole = 0
        if path.is_file():
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            self.lines = [json.loads(line) for line in data[:whole].splitlines()]
            if whole < len(data):
                os.truncate(path, whole)

    def add(self, value: Any) -> None:
        """Append one line, on disk when this returns."""
        with open(self._path, "ab") as file:
            file.write(to_json(value) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(value)
