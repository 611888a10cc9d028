"""Batches by step: a pure function of (source, seed, step, global batch), read by Grain's worker processes.

Hosts and workers only divide the work: each host loads its rows of the same global batch. The position is the number
of the next step, so a checkpoint stores one integer and a resume may use other workers or hosts.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import grain.python as grain
import numpy as np
from absl import flags

from ltx_jax.errors import UserError, require
from ltx_jax.rng import numpy_rng

T = TypeVar("T")


class Rows(Protocol):
    """What can be read in batches: items by (number, draw)."""

    fingerprint: str

    def __len__(self) -> int: ...

    def item(self, number: int, draw: int) -> Any: ...


@functools.lru_cache(maxsize=64)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return numpy_rng(seed, "data.order", epoch).permutation(length)


def item_at(length: int, seed: int, position: int) -> tuple[int, int]:
    """(item number, draw) of the global sample number `position`: every epoch shuffles anew, the draw is the epoch."""
    epoch, place = divmod(position, length)
    return int(_permutation(length, seed, epoch)[place]), epoch


class Batches:
    """An endless iterator of batches from step `start` on; `get_state` and `set_state` move it exactly.

    global_batch: samples of all hosts together; this host loads rows [index, index + 1) * global_batch / count.
    collate: list of items -> batch. workers: processes (0: none). Raises UserError when hosts do not divide the batch.
    """

    def __init__(
        self, rows: Rows, seed: int, global_batch: int, collate: Callable[[list[Any]], T], *, workers: int = 0,
        process_index: int = 0, process_count: int = 1,
    ):  # fmt: skip
        require(len(rows) > 0, "There is no clip to read.")
        require(
            global_batch % process_count == 0,
            f"The batch of {global_batch} does not divide over {process_count} hosts; choose a multiple.",
        )
        self._rows, self._seed, self._collate, self._workers = rows, seed, collate, workers
        self._global, self._local = global_batch, global_batch // process_count
        self._offset = process_index * self._local
        self._step, self._iterator = 0, None

    def at(self, step: int) -> Any:
        """The batch of `step`, read in this process."""
        first = step * self._global + self._offset
        return self._collate([self._load(first + i) for i in range(self._local)])

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self._dataset(self._step)) if self._workers else None
        batch = self.at(self._step) if self._iterator is None else _own(next(self._iterator))
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position, JSON-able."""
        return {"step": self._step, "data": self._rows.fingerprint}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a stored position. Raises UserError when the data have changed since."""
        if state["data"] != self._rows.fingerprint:
            raise UserError(
                "The data have changed since the checkpoint was written; use the same files or a new workdir."
            )
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stop the workers."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None and hasattr(iterator, "close"):
            iterator.close()

    def _load(self, position: int) -> Any:
        return self._rows.item(*item_at(len(self._rows), self._seed, position))

    def _dataset(self, start: int) -> grain.IterDataset:
        if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which library users and tests never parse
            flags.FLAGS.mark_as_parsed()
        steps = grain.MapDataset.range(start, 1 << 40).map(_At(self))
        options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=2)
        return steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)).mp_prefetch(options)


def _own(batch: dict[str, Any]) -> dict[str, Any]:
    """A copy outside of the workers' shared memory, which is freed at once rather than noisily at exit."""
    return {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in batch.items()}


class _At:
    """`Batches.at` without the running iterator, to be sent to worker processes."""

    def __init__(self, batches: Batches):
        self._batches = copy.copy(batches)
        self._batches._iterator = None

    def __call__(self, step: int) -> Any:
        return self._batches.at(int(step))
