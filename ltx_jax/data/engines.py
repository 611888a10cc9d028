"""Where preparation works: on this machine, or on a Ray cluster (data/ray_engine.py). Both run the same functions."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ltx_jax.data.clips import Clip, ClipRules, Video, plan_video, read_clip
from ltx_jax.data.encode import ClipEncoder, EncoderSpec
from ltx_jax.data.workers import ordered_map

Encoded = list[bytes | str]  # per clip its record, or why there is none


class Engine(Protocol):
    """Where the work is done. Results come in the order of what was asked."""

    def plan(self, videos: Sequence[Video], rules: ClipRules) -> Iterator[list[Clip] | str]: ...

    def encode(self, batches: Sequence[list[Clip]], sample_rate: int) -> Iterator[Encoded]: ...

    def empty(self) -> bytes: ...


class LocalEngine:
    """This machine: worker processes look at and decode files, this process encodes."""

    def __init__(self, encoder: ClipEncoder, workers: int):
        self._encoder, self._workers = encoder, workers

    def plan(self, videos: Sequence[Video], rules: ClipRules) -> Iterator[list[Clip] | str]:
        """`plan_video` of every file."""
        return ordered_map(functools.partial(plan_video, rules=rules), videos, self._workers, crashed)

    def encode(self, batches: Sequence[list[Clip]], sample_rate: int) -> Iterator[Encoded]:
        """Records of every batch of clips."""
        clips = itertools.chain.from_iterable(batches)
        items = ordered_map(functools.partial(read_clip, sample_rate=sample_rate), clips, self._workers, crashed)
        for batch in batches:
            yield encode_readable(self._encoder, batch, list(itertools.islice(items, len(batch))))

    def empty(self) -> bytes:
        """The record of the empty caption."""
        return self._encoder.empty()


def crashed(job: Video | Clip) -> str:
    """Why there is nothing of a job whose process died."""
    return f"'{job.path}' makes the decoder crash."


def encode_readable(encoder: ClipEncoder, clips: Sequence[Clip], items: Sequence[dict[str, Any] | str]) -> Encoded:
    """Records of the clips that could be read, in their places; of the others the reason."""
    good = [i for i, item in enumerate(items) if not isinstance(item, str)]
    result: Encoded = [item if isinstance(item, str) else "" for item in items]
    records = encoder([clips[i] for i in good], [items[i] for i in good]) if good else []  # type: ignore[misc]
    for i, record in zip(good, records, strict=True):
        result[i] = record
    return result


@contextlib.contextmanager
def open_engine(kind: str, encoders: EncoderSpec, workers: int, address: str | None = None) -> Iterator[Engine]:
    """The engine "local" or "ray". Raises UserError when Ray is asked for and not installed, or cannot be reached."""
    if kind == "local":
        yield LocalEngine(encoders.open(), workers)
        return
    from ltx_jax.data.ray_engine import ray_engine

    with ray_engine(encoders, workers, address) as engine:
        yield engine
