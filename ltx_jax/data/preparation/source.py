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

from ltx_jax.data.buckets import Bucket
from ltx_jax.data.preparation.clips import Clip
from ltx_jax.data.preparation.encode import ClipEncoder, Encoded
from ltx_jax.data.preparation.prepare import EMPTY, FORMAT, IDENTITY, INDEX, assign_shards, make_index, write_shards
from ltx_jax.data.raw.item import Source
from ltx_jax.files import read_json, write_bytes, write_json
from ltx_jax.lock import NAME as LOCK
from ltx_jax.lock import working_in

BATCH, SHARD = 16, 256  # clips encoded together, clips of a shard


@dataclasses.dataclass(frozen=True)
class SourceClips:
    """Clips 0 .. count - 1 of `source`, all of one size; numbers beyond its length are further draws of it.

    references: of the same clips, numbered alike, or None (data/raw/references.py). sample_rate of the sound in Hz.
    """

    source: Source
    count: int
    bucket: Bucket
    sample_rate: int
    references: Source | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the clips apart from others, JSON-able."""
        beside = self.references.fingerprint if self.references is not None else ""
        return {"source": self.source.fingerprint, "references": beside, "clips": self.count}

    def records(self, encoder: ClipEncoder, batches: Sequence[list[Clip]]) -> Iterator[Encoded]:
        """Records of every batch of clips, whose numbers are their names."""
        for batch in batches:
            places = [divmod(int(clip.name), len(self.source)) for clip in batch]
            items = [self.source.item(n, draw) for draw, n in places]
            beside = [self.references.item(n, draw) for draw, n in places] if self.references is not None else None
            named = [dataclasses.replace(c, caption=item["caption"]) for c, item in zip(batch, items, strict=True)]
            yield list(encoder(named, items, beside))


def prepare_source(
    clips: SourceClips, output: Path, open_encoder: Callable[[], ClipEncoder], model: dict[str, str],
    text: str | None, *, progress: bool = True,
) -> None:  # fmt: skip
    """Encode `clips` into the folder `output`, to be read by `PreparedClips`.

    open_encoder: called if there is something to encode. model: identity of the autoencoders, see `model_identity`.
    text: what tells the text encoder apart from others, None where the encoder makes no features of captions. Raises
    UserError for a clip that cannot be read, and when another process works in the folder.
    """
    identity = {"format": FORMAT, "model": model, "text": text, "shard_clips": SHARD, **clips.identity}
    encoder = functools.cache(open_encoder)
    encode = lambda batches: clips.records(encoder(), batches) if batches else iter(())
    output.mkdir(parents=True, exist_ok=True)
    with working_in(output):
        if not (output / IDENTITY).is_file() or read_json(output / IDENTITY) != identity:
            _empty(output)
            write_json(output / IDENTITY, identity)
        shards = assign_shards([Clip("", str(n), "", clips.bucket, 0.0) for n in range(clips.count)], SHARD)
        lines = write_shards(output, shards, encode, BATCH, progress)
        if text is not None and not (output / EMPTY).is_file():
            write_bytes(output / EMPTY, encoder().empty())
        write_json(output / INDEX, make_index(lines, [], clips.sample_rate, model))


def _empty(folder: Path) -> None:
    """Remove what another preparation left."""
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
