"""Text features of captions on disk: computed once by the frozen text encoder, read with every batch.

What is stored is the feature extractor's output before the connectors (spec training.md 7.8), of real tokens alone:
the connectors replace padding. Captions that repeat are stored once. Letters: S text tokens, E width.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ltx_jax.data.encoded.latents import LatentStore
from ltx_jax.data.raw.item import Item
from ltx_jax.files import write_json

INDEX = "index.json"
NAMES = ("video", "audio")
# captions (n) -> (video features (n, S, E), audio features (n, S, E'), mask (n, S), 1 = real token)
EncodeText = Callable[[list[str]], tuple[np.ndarray, np.ndarray, np.ndarray]]


class TextFeatures:
    """Features of known captions, by caption."""

    def __init__(self, folder: Path):
        self._folder = folder
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.fingerprint: str = index["fingerprint"]
        self._rows: dict[str, int] = {caption: i for i, caption in enumerate(index["captions"])}
        self._length: int = index["length"]
        self._arrays: dict[str, np.ndarray] | None = None

    def __getitem__(self, caption: str) -> dict[str, np.ndarray]:
        """video_features (S, E), audio_features (S, E') float32 and text_mask (S,) int32, real tokens last."""
        arrays, row = self._open(), self._rows[caption]
        start, stop = arrays["offsets"][row : row + 2]
        missing = self._length - (stop - start)
        features = {f"{n}_features": np.pad(arrays[n][start:stop], ((missing, 0), (0, 0))) for n in NAMES}
        return features | {"text_mask": (np.arange(self._length) >= missing).astype(np.int32)}

    def _open(self) -> dict[str, np.ndarray]:
        if self._arrays is None:  # opened where it is used: maps do not travel to worker processes
            self._arrays = {n: np.load(self._folder / f"{n}.npy", mmap_mode="r") for n in (*NAMES, "offsets")}
        return self._arrays

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": None}


class WithFeatures:
    """Encoded clips with the features of their captions beside them."""

    def __init__(self, clips: Any, features: TextFeatures):
        self._clips, self._features = clips, features
        self.fingerprint = f"{clips.fingerprint} {features.fingerprint}"

    def __len__(self) -> int:
        return len(self._clips)

    def item(self, number: int, draw: int) -> Item:
        """Clip `number` with its text features."""
        item = self._clips.item(number, draw)
        return item | self._features[item["caption"]]


def encode_captions(
    captions: Sequence[str], encode: EncodeText, folder: Path, fingerprint: str, *, batch: int = 32
) -> TextFeatures:
    """Encode distinct captions into `folder`; a store of the same fingerprint is used as it is.

    fingerprint: of captions and encoder. encode is always called with `batch` captions.
    """
    if (folder / INDEX).is_file() and TextFeatures(folder).fingerprint == fingerprint:
        return TextFeatures(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    distinct = list(dict.fromkeys(captions))
    rows: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    length = 0
    for start in tqdm(range(0, len(distinct), batch), desc="encoding captions", unit="batch"):
        some = distinct[start : start + batch]
        *features, mask = encode(some + [some[-1]] * (batch - len(some)))
        length = mask.shape[1]
        for name, values in zip(NAMES, features, strict=True):
            rows[name] += [v[m > 0].astype(np.float32) for v, m in zip(values[: len(some)], mask, strict=False)]
    for name in NAMES:
        np.save(folder / f"{name}.npy", np.concatenate(rows[name]))
    np.save(folder / "offsets.npy", np.cumsum([0, *(len(r) for r in rows[NAMES[0]])]))
    index = {"fingerprint": fingerprint, "captions": distinct, "length": length}
    write_json(folder / INDEX, index)
    return TextFeatures(folder)


def store_captions(store: LatentStore) -> list[str]:
    """All captions of a store, and the empty one that replaces some of them."""
    return [*store.captions(), ""]
