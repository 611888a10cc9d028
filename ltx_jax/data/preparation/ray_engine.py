"""Preparation on a Ray cluster: files are looked at and decoded by tasks, encoders are actors, one per accelerator.

The functions are those of the local engine; decoded pixels go from the task to the actor through Ray's object store
and never through this process, which only writes the shards.
"""

import contextlib
import importlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ltx_jax.data.preparation.clips import Clip, ClipRules, Video, crashed, plan_video, read_clip
from ltx_jax.data.preparation.encode import Encoded, EncoderSpec, encode_readable
from ltx_jax.errors import UserError

AHEAD = 3  # tasks per worker, and batches per actor, that are under way or wait to be read


class RayEngine:
    """`workers` tasks at a time, and actors that encode. open_encoder: makes the encoder inside an actor."""

    def __init__(self, ray: Any, open_encoder: Callable[[], Any], workers: int, actors: int, gpus: float = 0):
        self._ray, self._workers = ray, max(1, workers)
        # a task whose process dies is told by an error, once; the job is then the culprit, as for local workers
        task = lambda function: ray.remote(num_cpus=1, max_retries=0)(function)
        self._plan, self._read = task(plan_video), task(read_clip)
        actor = ray.remote(num_cpus=0, num_gpus=gpus)(_Encoder)
        self._actors = [actor.remote(open_encoder) for _ in range(actors)]

    def plan(self, videos: Sequence[Video], rules: ClipRules) -> Iterator[list[Clip] | str]:
        """`plan_video` of every file."""
        started = ((video, self._plan.remote(video, rules)) for video in videos)
        for video, reference in _ahead(started, self._workers * AHEAD):
            yield self._result(reference, video)

    def encode(self, batches: Sequence[list[Clip]], sample_rate: int) -> Iterator[Encoded]:
        """Records of every batch of clips, actors taking turns."""
        started = (
            self._start(actor, clips, sample_rate) for actor, clips in zip(itertools.cycle(self._actors), batches)
        )
        for actor, clips, items, reference in _ahead(started, len(self._actors) * AHEAD):
            try:
                yield self._ray.get(reference)
            except self._ray.exceptions.RayError:  # a decoder crashed; anything else is raised again here
                readable = [self._result(item, clip) for item, clip in zip(items, clips, strict=True)]
                yield self._ray.get(actor.encode.remote(clips, *readable))

    def empty(self) -> bytes:
        """The record of the empty caption."""
        return self._ray.get(self._actors[0].empty.remote())

    def _start(self, actor: Any, clips: list[Clip], sample_rate: int) -> tuple[Any, list[Clip], list[Any], Any]:
        items = [self._read.remote(clip, sample_rate) for clip in clips]
        return actor, clips, items, actor.encode.remote(clips, *items)

    def _result(self, reference: Any, job: Video | Clip) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.WorkerCrashedError:
            return crashed(job)


class _Encoder:
    """The actor: an encoder on its accelerator."""

    def __init__(self, open_encoder: Callable[[], Any]):
        self._encoder = open_encoder()

    def encode(self, clips: list[Clip], *items: Any) -> Encoded:
        return encode_readable(self._encoder, clips, items)

    def empty(self) -> bytes:
        return self._encoder.empty()


def _ahead(started: Iterable[Any], count: int) -> Iterator[Any]:
    """Elements in order, `count` of them made before the first is given."""
    waiting: deque[Any] = deque()
    for element in started:
        waiting.append(element)
        if len(waiting) >= count:
            yield waiting.popleft()
    yield from waiting


@contextlib.contextmanager
def ray_engine(encoders: EncoderSpec, workers: int, address: str | None = None) -> Iterator[RayEngine]:
    """An engine on the cluster at `address`, or the one that Ray's environment names, or else a local one.

    There is an actor per GPU of the cluster, one without any. Raises UserError when Ray is not installed or no cluster
    answers.
    """
    ray = import_ray()
    found = address or os.environ.get("RAY_ADDRESS")
    # A cluster of our own has room for the tasks; one that is joined says itself what it has.
    options = {"address": found} if found else {"num_cpus": max(1, workers)}
    try:
        ray.init(log_to_driver=False, include_dashboard=False, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UserError(f"Ray cannot be reached at '{found}' ({error}); check --ray_address.") from None
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        yield RayEngine(ray, encoders.open, workers, max(1, gpus), gpus=1 if gpus else 0)
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """The module. Raises UserError when it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UserError("Ray is not installed: pip install 'ltx-jax[ray]', or use --engine=local.") from None
