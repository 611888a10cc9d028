"""Clips of a source (the toy world, windows of raw videos) to shards, as training does on its way to the transformer.

The same shards as those of prepare.py, so that there is one way to read encoded clips; only where the clips come from
differs. Killed and begun again, it goes on where it was; a folder of other clips or encoders is made anew.
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltx_jax.data.buckets import Bucket
from ltx_jax.data.preparation.clips import Clip
from ltx_jax.data.preparation.encode import ClipEncoder, Encoded
from ltx_jax.data.preparation.prepare import EMPTY, FORMAT, IDENTITY, INDEX, assign_shards, make_index, write_shards
from ltx_jax.data.raw.item import Source
from ltx_jax.files import read_json, write_bytes, write_json
from ltx_jax.lock import NAME as LOCK
from ltx_jax.lock import working_in
from ltx_jax.rng import numpy_rng

BATCH, SHARD = 16, 256  # clips encoded together, clips of a shard


@dataclasses.dataclass(frozen=True)
class SourceClips:
    """Clips 0 .. count - 1 of `source`, all of one size; numbers beyond its length are further draws of it.

    references: of the same clips, numbered alike, or None (data/raw/references.py). sample_rate of the sound in Hz.
    stills: frames of each clip, drawn by its number, that are encoded alone beside it.
    """

    source: Source
    count: int
    bucket: Bucket
    sample_rate: int
    references: Source | None = None
    stills: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the clips apart from others, JSON-able."""
        beside = self.references.fingerprint if self.references is not None else ""
        stills = {"stills": self.stills} if self.stills else {}
        return {"source": self.source.fingerprint, "references": beside, "clips": self.count} | stills

    def records(self, encoder: ClipEncoder, batches: Sequence[list[Clip]]) -> Iterator[Encoded]:
        """Records of every batch of clips, whose numbers are their names."""
        for batch in batches:
            places = [divmod(int(clip.name), len(self.source)) for clip in batch]
            items = [self.source.item(n, draw) for draw, n in places]
            beside = [self.references.item(n, draw) for draw, n in places] if self.references is not None else None
            named = [dataclasses.replace(c, caption=item["caption"]) for c, item in zip(batch, items, strict=True)]
            stills = [self._stills(int(clip.name)) for clip in batch] if self.stills else None
            yield list(encoder(named, items, beside, stills))

    def _stills(self, number: int) -> np.ndarray:
        """The frames of clip `number` that are stills, int32 (stills,), in random order."""
        rng = numpy_rng(0, "stills", number)
        return rng.choice(self.bucket.frames, self.stills, replace=False).astype(np.int32)


def prepare_source(
    sizes: Sequence[SourceClips], output: Path, open_encoder: Callable[[], ClipEncoder], model: dict[str, str],
    text: str | None, *, progress: bool = True,
) -> None:  # fmt: skip
    """Encode clips, of every size those of an entry of `sizes`, into the folder `output`, for `PreparedClips`.

    open_encoder: called if there is something to encode. model: identity of the autoencoders, see `model_identity`.
    text: what tells the text encoder apart from others, None where the encoder makes no features of captions. Raises
    UserError for a clip that cannot be read, and when another process works in the folder.
    """
    more = {"smaller": [own.identity for own in sizes[1:]]} if len(sizes) > 1 else {}
    identity = {"format": FORMAT, "model": model, "text": text, "shard_clips": SHARD, **sizes[0].identity, **more}
    encoder, of_bucket = functools.cache(open_encoder), {own.bucket: own for own in sizes}

    def encode(batches: Sequence[list[Clip]]) -> Iterator[Encoded]:
        return (record for batch in batches for record in of_bucket[batch[0].bucket].records(encoder(), [batch]))

    output.mkdir(parents=True, exist_ok=True)
    with working_in(output):
        if not (output / IDENTITY).is_file() or read_json(output / IDENTITY) != identity:
            _empty(output)
            write_json(output / IDENTITY, identity)
        clips = [Clip("", str(n), "", own.bucket, 0.0) for own in sizes for n in range(own.count)]
        shards = assign_shards(clips, SHARD)
        lines = write_shards(output, shards, encode, BATCH, progress)
        if text is not None and not (output / EMPTY).is_file():
            write_bytes(output / EMPTY, encoder().empty())
        write_json(output / INDEX, make_index(lines, [], sizes[0].sample_rate, model))


def _empty(folder: Path) -> None:
    """Remove what another preparation left."""
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
