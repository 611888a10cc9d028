"""Reading prepared folders: clips by (bucket, number), text features put back to their full length.

Letters: B batch, T video tokens, A audio tokens, S text tokens, C channels, E width of text features.
"""

import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol

import grain.python as grain
import numpy as np

from ltx_jax.data.buckets import Bucket
from ltx_jax.data.encoded.records import unpack
from ltx_jax.errors import UserError

INDEX, EMPTY = "index.json", "empty.record"

Item = dict[str, Any]


class Clips(Protocol):
    """A data set of encoded clips. fingerprint: changes when the data do. buckets: clips of every size.

    model: identity of the encoders (data/preparation/encode.py), None where it is not known. captions: whether items
    have theirs.
    """

    fingerprint: str
    captions: bool
    buckets: dict[Bucket, int]
    model: dict[str, str] | None

    def item(self, bucket: Bucket, number: int) -> Item:
        """video (T, C) and audio (A, C') float32, has_audio, caption, and the features (n, E) of the caption."""
        ...

    def empty(self) -> Item | None:
        """Features of the empty caption, where they are stored."""
        ...


def is_prepared(path: Path) -> bool:
    """Whether `tools.prepare` has worked on this folder, finished or not."""
    return (path / "prepare.json").is_file()


class PreparedClips:
    """The shards of one folder that `tools.prepare` made. Raises UserError when one is missing or truncated."""

    captions = True

    def __init__(self, folder: Path):
        if not (folder / INDEX).is_file():
            raise UserError(f"The preparation of '{folder}' is not finished; run the same prepare command again.")
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self._folder, self.model, self.fingerprint = folder, index["model"], index["fingerprint"]
        self._shards: dict[Bucket, list[str]] = defaultdict(list)
        self.buckets: dict[Bucket, int] = defaultdict(int)
        for shard in index["shards"]:
            if not shard["records"]:
                continue
            bucket = Bucket(**shard["bucket"])
            self._shards[bucket].append(str(_checked(folder / shard["name"], shard["bytes"])))
            self.buckets[bucket] += shard["records"]
        self._sources: dict[Bucket, grain.ArrayRecordDataSource] = {}

    def item(self, bucket: Bucket, number: int) -> Item:
        """Clip `number` of `bucket`. Raises UserError when its shard cannot be read."""
        try:
            if bucket not in self._sources:  # opened where it is used: readers do not travel to worker processes
                self._sources[bucket] = grain.ArrayRecordDataSource(self._shards[bucket])
            record = self._sources[bucket][number]
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"A shard of {bucket.name} in '{self._folder}' is damaged ({_first_line(error)}); run the prepare "
                "command again after deleting it."
            ) from None
        arrays, metadata = unpack(record)
        return _widen(arrays) | {"has_audio": metadata["has_audio"] == "1", "caption": metadata["caption"]}

    def empty(self) -> Item:
        """Features of the empty caption."""
        return _widen(unpack((self._folder / EMPTY).read_bytes())[0])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sources": {}}


def _checked(path: Path, size: int) -> Path:
    if not path.is_file():
        raise UserError(f"The shard '{path}' is missing; run the same prepare command again.")
    found = path.stat().st_size
    if found != size:
        raise UserError(
            f"The shard '{path}' is truncated ({found} of {size} bytes); run the same prepare command again."
        )
    return path


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:100] if str(error) else type(error).__name__


def _widen(arrays: dict[str, np.ndarray]) -> Item:
    """Float32 copies; a release with one set of features for both streams stores it once."""
    item = {name: array.astype(np.float32) for name, array in arrays.items()}
    if "video_features" in item:
        item.setdefault("audio_features", item["video_features"])
    return item


def place_text(item: Item, length: int) -> Item:
    """Features (n, E) at the end of `length` tokens, as the tokenizer places them: (S, E), and text_mask (S,) int32.

    Raises UserError when the caption is longer.
    """
    placed: Item = {}
    for name in ("video_features", "audio_features"):
        features = item[name]
        if len(features) > length:
            raise UserError(f"The text features are of {len(features)} tokens, more than the model's {length}.")
        placed[name] = np.zeros((length, features.shape[1]), np.float32)
        placed[name][length - len(features) :] = features
    mask = np.zeros((length,), np.int32)
    mask[length - len(item["video_features"]) :] = 1
    return placed | {"text_mask": mask}


@dataclasses.dataclass(frozen=True)
class FeatureBatch:
    """Collates clips with their stored text features, `length` tokens each."""

    length: int

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        """Stacked arrays: video (B, T, C), audio (B, A, C'), has_audio (B,), features (B, S, E), text_mask (B, S)."""
        texts = [place_text(item, self.length) for item in items]
        batch = {name: np.stack([text[name] for text in texts]) for name in texts[0]}
        return batch | stack_clips(items)


def stack_clips(items: list[Item]) -> dict[str, Any]:
    """Everything of the clips but their text: stacked arrays of the names that all have."""
    text = {"caption", "video_features", "audio_features", "has_audio"}
    names = sorted(set.intersection(*(set(item) for item in items)) - text)
    batch = {name: np.stack([item[name] for item in items]) for name in names}
    return batch | {"has_audio": np.array([item["has_audio"] for item in items], bool)}
