"""Where preparation works: on this machine, or on a Ray cluster (ray_engine.py). Both run the same functions."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

from ltx_jax.data.preparation.clips import Clip, ClipRules, Video, crashed, plan_video, read_clip
from ltx_jax.data.preparation.encode import ClipEncoder, Encoded, EncoderSpec, encode_readable
from ltx_jax.data.preparation.ray_engine import ray_engine
from ltx_jax.data.preparation.workers import ordered_map


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


@contextlib.contextmanager
def open_engine(kind: str, encoders: EncoderSpec, workers: int, address: str | None = None) -> Iterator[Engine]:
    """The engine "local" or "ray". Raises UserError when Ray is asked for and not installed, or cannot be reached."""
    if kind == "local":
        yield LocalEngine(encoders.open(), workers)
        return
    with ray_engine(encoders, workers, address) as engine:
        yield engine
