"""A model's tensors as a folder of Orbax checkpoints: flat dicts under official names, small shards.

Any JAX program reads a shard with `orbax.checkpoint.StandardCheckpointer`. Beside them lies `metadata.json`, which is
what a safetensors file has in its header: "metadata", and "shards" with [type, shape] by shard and name.
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

from ltx_jax.checkpoints.orbax import load_weights, save_weights
from ltx_jax.checkpoints.safetensors import DTYPES, NAMES, Rows, Tensors, check_sum, manifest_of, read_manifest
from ltx_jax.errors import UserError, require
from ltx_jax.files import read_json, write_json

SUFFIX = ".orbax"
SHARD = 32 << 20  # bytes of a shard: Orbax holds some copies of it while it is written. A larger tensor stands alone
_METADATA = "metadata.json"


class OrbaxFolder(Tensors):
    """The tensors of a folder, each read when it is asked for.

    Raises UserError for a folder that is no such one, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not (self.path / _METADATA).is_file():
            raise UserError(f"'{path}' is no folder of Orbax checkpoints under official names: it has no {_METADATA}.")
        head = read_json(self.path / _METADATA)
        known = isinstance(head, dict) and {"metadata", "shards"} <= head.keys()
        require(known, f"'{path}' is damaged: its {_METADATA} lists no shards; convert the model again.")
        self.metadata, self._shards = head["metadata"], head["shards"]
        self.held = self._entries = {
            name: (shard, DTYPES[dtype], tuple(shape))
            for shard, own in self._shards.items()
            for name, (dtype, shape) in own.items()
        }
        self._sums = read_manifest(self.path)
        self._kept: tuple[str, Mapping[str, np.ndarray]] = ("", {})

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return self._entries[name][2]

    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor without reading it."""
        return np.dtype(self._entries[name][1])

    def _load(self, shard: str) -> Mapping[str, np.ndarray]:
        names = self._shards[shard]
        wanted = {name: jax.ShapeDtypeStruct(self.shape(name), self.dtype(name)) for name in names}
        return load_weights(self.path / shard, wanted)

    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis. Raises UserError as `SafetensorsFile.read`."""
        shard = self._entries[name][0]
        if self._kept[0] != shard:
            self._kept = ("", {})  # before the next one is read
            self._kept = (shard, self._load(shard))
        whole = np.asarray(self._kept[1][name])
        check_sum(self.path, name, whole, self._sums)
        return whole if rows is None else whole[rows[0] : rows[1]]


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
    entry = lambda name: [NAMES[tensors.dtype(name)], list(tensors.shape(name))]
    listed = {f"{i:05d}": {name: entry(name) for name in names} for i, names in enumerate(shards)}
    write_json(partial / _METADATA, {"metadata": dict(metadata), "shards": listed})
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
