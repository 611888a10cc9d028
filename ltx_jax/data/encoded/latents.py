"""Encoded clips on disk: latents of both streams with captions, written once and read by number.

A store is a folder of memory-mapped arrays and one JSON file that is written last, so a half-written store is never
taken for a whole one; encoding goes on at the first clip that is missing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ltx_jax.data.raw.item import Source, collate
from ltx_jax.errors import UserError
from ltx_jax.files import write_json

INDEX = "index.json"
# (video uint8 (B, F, h, w, 3), audio (B, 2, L)) -> (video tokens (B, T, C), audio tokens (B, A, C'))
Encode = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class LatentStore:
    """A finished store; `item(n, draw)` is clip n: video (T, C), audio (A, C'), has_audio, caption."""

    def __init__(self, folder: Path):
        """Raises UserError when the folder holds no finished store."""
        if not (folder / INDEX).is_file():
            raise UserError(f"The folder '{folder}' holds no finished latents.")
        self._folder = folder
        self._index = json.loads((folder / INDEX).read_text())
        self._arrays: dict[str, np.ndarray] | None = None
        self.fingerprint: str = self._index["fingerprint"]

    def __len__(self) -> int:
        return len(self._index["captions"])

    def item(self, number: int, draw: int) -> dict[str, Any]:
        """Clip `number`; nothing about it is drawn."""
        del draw
        arrays = self._open()
        values = {name: np.array(arrays[name][number]) for name in ("video", "audio")}
        return values | {"has_audio": self._index["has_audio"][number], "caption": self._index["captions"][number]}

    def captions(self) -> list[str]:
        """All captions, by number."""
        return list(self._index["captions"])

    def _open(self) -> dict[str, np.ndarray]:
        if self._arrays is None:  # opened where it is used: maps do not travel to worker processes
            self._arrays = {n: np.load(self._folder / f"{n}.npy", mmap_mode="r") for n in ("video", "audio")}
        return self._arrays

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": None}


def encode_clips(
    source: Source,
    encode: Encode,
    count: int,
    folder: Path,
    fingerprint: str,
    *,
    batch: int = 16,
    progress: bool = True,
) -> LatentStore:
    """Encode clips 0 .. count - 1 (numbers beyond the source's length are further draws of it) into `folder`.

    fingerprint: of source and encoder; a store of another one is replaced, an unfinished one of the same goes on.
    """
    if (folder / INDEX).is_file() and LatentStore(folder).fingerprint == fingerprint:
        return LatentStore(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    done = _Progress(folder / "progress.json", fingerprint)
    arrays: dict[str, np.ndarray] = {}
    with tqdm(total=count, initial=done.count, desc="encoding clips", unit="clip", disable=not progress) as bar:
        for start in range(done.count, count, batch):
            numbers = range(start, min(start + batch, count))
            items = collate([source.item(n % len(source), n // len(source)) for n in numbers])
            encoded = _encode_padded(encode, items["video"], items["audio"], batch)
            for name, values in zip(("video", "audio"), encoded, strict=True):
                if name not in arrays:
                    arrays[name] = _open_array(folder / f"{name}.npy", (count, *values.shape[1:]), done.count > 0)
                arrays[name][start : start + len(values)] = values
                arrays[name].flush()  # type: ignore[attr-defined]
            done.add(items["caption"], items["has_audio"].tolist())
            bar.update(len(numbers))
    index = {"fingerprint": fingerprint, "captions": done.captions, "has_audio": done.has_audio}
    write_json(folder / INDEX, index)
    return LatentStore(folder)


class _Progress:
    """Which clips are encoded; on disk after every batch."""

    def __init__(self, path: Path, fingerprint: str):
        self._path, self._fingerprint = path, fingerprint
        stored = json.loads(path.read_text()) if path.is_file() else {}
        same = stored.get("fingerprint") == fingerprint
        self.captions: list[str] = stored["captions"] if same else []
        self.has_audio: list[bool] = stored["has_audio"] if same else []

    @property
    def count(self) -> int:
        return len(self.captions)

    def add(self, captions: list[str], has_audio: list[bool]) -> None:
        self.captions += captions
        self.has_audio += has_audio
        if self.count % 512 < len(captions):  # a stop loses at most so many clips' work
            record = {"fingerprint": self._fingerprint, "captions": self.captions, "has_audio": self.has_audio}
            write_json(self._path, record)


def _encode_padded(encode: Encode, video: np.ndarray, audio: np.ndarray, batch: int) -> tuple[np.ndarray, ...]:
    """Encode with a fixed batch, so that one program serves the last, smaller batch too."""
    count = len(video)
    pad = lambda x: np.concatenate([x, np.repeat(x[-1:], batch - count, axis=0)])
    return tuple(np.asarray(x)[:count] for x in encode(pad(video), pad(audio)))


def _open_array(path: Path, shape: tuple[int, ...], exists: bool) -> np.ndarray:
    if exists and path.is_file():
        return np.load(path, mmap_mode="r+")
    return np.lib.format.open_memmap(path, "w+", np.float32, shape)
