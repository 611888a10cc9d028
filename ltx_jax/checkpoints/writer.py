"""Writing safetensors tensor by tensor, so that a file of any size needs the memory of one; what was begun goes on."""

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltx_jax.checkpoints.safetensors import NAMES, Tensors, checksum, manifest_of
from ltx_jax.errors import UserError
from ltx_jax.files import write_json


def stream_safetensors(
    path: Path, tensors: Tensors, metadata: Mapping[str, str], progress: Callable[[int], Any], origin: str = ""
) -> None:
    """Write all of `tensors` as the file `path`, which appears when it is whole.

    What a killed process has left beside it, written from the same tensors of the same `origin` (what tells their files
    apart), is gone on with. progress: called with the bytes of each tensor. Raises UserError where the disk is full.
    """
    head, names = _header(tensors, metadata)
    mark = zlib.crc32(origin.encode(), zlib.crc32(head))
    partial = path.with_name(f"{path.name}.{mark:08x}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(partial, "r+b" if partial.exists() else "w+b") as file:
            if file.read(len(head)) != head:
                file.seek(0)
                file.truncate()
                file.write(head)
            at, end = len(head), file.seek(0, os.SEEK_END)
            for name in names:
                size = tensors.nbytes(name)
                if at + size > end:
                    file.seek(at)
                    file.write(memoryview(np.ascontiguousarray(tensors.read(name)).reshape(-1).view(np.uint8)))
                    end = at + size
                at += size
                progress(size)
            file.truncate(at)
            file.flush()
            os.fsync(file.fileno())
        manifest_of(path).unlink(missing_ok=True)  # of what was there before
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written ({error.strerror or error}); free the place and repeat.") from None


def _header(tensors: Tensors, metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """The header, and the tensors' names in the order of the file: wide types first, so that all lie aligned."""
    names = sorted(tensors, key=lambda name: -tensors.dtype(name).itemsize)
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name in names:
        end = at + tensors.nbytes(name)
        shape = list(tensors.shape(name))
        entries[name] = {"dtype": NAMES[tensors.dtype(name)], "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, names


def write_manifest(path: Path, tensors: Tensors, progress: Callable[[int], Any]) -> None:
    """Leave the checksums of a file's tensors beside it."""
    sums = {}
    for name in tensors:
        sums[name] = checksum(tensors.read(name))
        progress(tensors.nbytes(name))
    write_json(manifest_of(path), sums)
