"""A model's tensors as a folder of Orbax checkpoints: flat dicts under official names, small shards.

Any JAX program reads a shard with `orbax.checkpoint.StandardCheckpointer`. Beside the shards lies
`metadata.json`, which is what a safetensors file has in its header.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ltx_jax.checkpoints.orbax import load_weights, save_weights
from ltx_jax.checkpoints.safetensors import Rows, Tensors, check_sum, manifest_of, read_manifest
from ltx_jax.errors import UserError
from ltx_jax.files import read_json, write_json

SUFFIX = ".orbax"
SHARD = 128 << 20  # bytes of a shard, which the host holds while it is written; a larger tensor has one alone
WHOLE = 64 << 20  # bytes up to which a shard is read at once
_METADATA = "metadata.json"


class OrbaxFolder(Tensors):
    """The tensors of a folder, each read when it is asked for.

    Raises UserError for a folder that is no such one, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not (self.path / _METADATA).is_file():
            raise UserError(f"'{path}' is no folder of Orbax checkpoints under official names: it has no {_METADATA}.")
        self.metadata = read_json(self.path / _METADATA)
        self.held = self._entries = {}
        for shard in sorted(p for p in self.path.iterdir() if p.is_dir()):
            for name, entry in _listing(shard).items():
                self._entries[name] = (shard, tuple(entry.shape), np.dtype(entry.dtype))
        self._sums = read_manifest(self.path)
        self._kept: tuple[Path | None, Mapping[str, np.ndarray]] = (None, {})

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return self._entries[name][1]

    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor without reading it."""
        return self._entries[name][2]

    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis. Raises UserError as `SafetensorsFile.read`."""
        shard, shape, dtype = self._entries[name]
        kept, arrays = self._kept
        if kept != shard:
            own = [n for n, entry in self._entries.items() if entry[0] == shard]
            small = sum(map(self.nbytes, own)) <= WHOLE
            arrays = load_weights(shard, None if small else {name: jax.ShapeDtypeStruct(shape, dtype)})
            self._kept = (shard, arrays) if small else (None, {})
        whole = np.asarray(arrays[name])
        check_sum(self.path, name, whole, self._sums)
        return whole if rows is None else whole[rows[0] : rows[1]]


def _listing(shard: Path) -> Mapping[str, Any]:
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.metadata(shard).item_metadata.tree
    except (ValueError, KeyError, OSError, AttributeError):
        raise UserError(f"'{shard}' is no Orbax checkpoint, or damaged; convert the model again.") from None


def write_orbax(
    path: Path, tensors: Tensors, metadata: Mapping[str, str], progress: Callable[[int], Any], origin: str = ""
) -> None:
    """Write all of `tensors` as the folder `path`, which appears when it is whole; see `stream_safetensors`."""
    shards = _shards(tensors)
    mark = zlib.crc32(json.dumps([origin, shards, dict(metadata)]).encode())
    partial = path.with_name(f"{path.name}.{mark:08x}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for i, names in enumerate(shards):
        shard = partial / f"{i:05d}"
        if not shard.is_dir():
            save_weights(shard, {name: tensors.read(name) for name in names})
        progress(sum(map(tensors.nbytes, names)))
    write_json(partial / _METADATA, dict(metadata))
    manifest_of(path).unlink(missing_ok=True)  # of what was there before
    shutil.rmtree(path, ignore_errors=True)
    os.replace(partial, path)


def _shards(tensors: Tensors) -> list[list[str]]:
    """Names in the order of the tensors, cut where a shard is full."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in tensors:
        if size and size + tensors.nbytes(name) > SHARD:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensors.nbytes(name)
    return shards
