"""Work on one machine: functions mapped over jobs by worker processes, in order, a few jobs ahead of the reader."""

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Job = TypeVar("Job")

AHEAD = 3  # jobs per worker that are under way or wait to be read


def ordered_map(
    function: Callable[[Job], Any], jobs: Iterable[Job], workers: int, crashed: Callable[[Job], Any]
) -> Iterator[Any]:
    """function(job) of every job, in order; workers = 0 runs them here.

    A job whose process dies (a decoder that crashes on a damaged file) gives crashed(job), the others go on.
    """
    if workers == 0:
        yield from map(function, jobs)
        return
    pending: deque[tuple[Job, Future]] = deque()
    left = iter(jobs)
    pool = _pool(workers)
    try:
        while True:
            for job in itertools.islice(left, workers * AHEAD - len(pending)):
                pending.append((job, _submit(pool, function, job)))
            if not pending:
                return
            try:
                result = pending[0][1].result()
            except BrokenProcessPool:
                results = [_alone(function, job, crashed) for job, _ in pending]
                pending.clear()
                pool.shutdown(wait=False)
                pool = _pool(workers)
                yield from results
                continue
            pending.popleft()
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, function: Callable[[Job], Any], job: Job) -> Future:
    try:
        return pool.submit(function, job)
    except BrokenProcessPool as error:  # found out while submitting: told when the result is asked for
        future: Future = Future()
        future.set_exception(error)
        return future


def _alone(function: Callable[[Job], Any], job: Job, crashed: Callable[[Job], Any]) -> Any:
    """The job in a process of its own, so that a crash has one culprit."""
    with _pool(1) as pool:
        try:
            return pool.submit(function, job).result()
        except BrokenProcessPool:
            return crashed(job)


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawned, not forked: a fork of a process that runs JAX's threads may hang
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
