"""Several data sets of encoded clips as one endless order of batches, each of one bucket.

Which bucket a step has, and which data set a sample comes from, follow from (seed, step) alone: shares are given out
in cycles of fixed length, each cycle shuffled anew, so that step 10^9 is found as fast as step 1 and shares are exact.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltx_jax.data.buckets import Bucket
from ltx_jax.data.encoded.prepared import Clips, Item
from ltx_jax.data.pipeline import Batches, item_at
from ltx_jax.errors import UserError, require
from ltx_jax.rng import numpy_rng

CYCLE = 1024  # positions in which every share gets its exact part, to 1 in 1024


def deal(weights: tuple[float, ...], seed: int, name: str, position: int) -> tuple[int, int]:
    """(which share, how many positions of that share came before) of `position`, shares dealt out by `weights`."""
    cycle, place = divmod(position, CYCLE)
    counts, order, ranks = _cycle(weights, seed, name, cycle)
    which = int(order[place])
    return which, cycle * int(counts[which]) + int(ranks[place])


@functools.lru_cache(maxsize=64)
def _cycle(weights: tuple[float, ...], seed: int, name: str, cycle: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions per share in a cycle; the share of every position; its number among those of its share."""
    counts = exact_counts(weights, CYCLE)
    order = numpy_rng(seed, f"data.{name}", cycle).permutation(np.repeat(np.arange(len(weights)), counts))
    ranks = np.zeros(CYCLE, np.int64)
    for which, count in enumerate(counts):
        ranks[order == which] = np.arange(count)
    return counts, order, ranks


def exact_counts(weights: Sequence[float], total: int) -> np.ndarray:
    """`total` split by `weights`, each at least 1: rounded down, what is left given to the largest remainders."""
    require(len(weights) <= total, f"{len(weights)} buckets or data sets are more than the {total} that can be mixed.")
    exact = np.asarray(weights, np.float64) / np.sum(weights) * (total - len(weights))
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: total - len(weights) - counts.sum()]
    counts[largest] += 1
    return counts + 1


class Mixture:
    """Data sets with weights; a sample of a step comes from a set by its weight, whatever the sets' sizes.

    Within a set every clip is seen once an epoch, and the buckets come in proportion to their clips. Raises UserError
    for weights that are not positive, or sets of different models.
    """

    def __init__(self, sets: Sequence[Clips], weights: Sequence[float]):
        require(all(w > 0 for w in weights), f"The weights of data sets must be above 0, not {list(weights)}.")
        models = [s.model for s in sets if s.model is not None]
        require(all(m == models[0] for m in models), "The data sets were prepared by different models.")
        self.sets, self.model = tuple(sets), models[0] if models else None
        self.captions = all(s.captions for s in sets)
        totals = [sum(s.buckets.values()) for s in sets]
        self.buckets = tuple(sorted(set().union(*(s.buckets for s in sets))))
        share = lambda i, b: weights[i] * sets[i].buckets.get(b, 0) / totals[i]
        self._shares = {b: tuple((i, share(i, b)) for i in range(len(sets)) if share(i, b)) for b in self.buckets}
        self._weights = tuple(sum(w for _, w in self._shares[b]) for b in self.buckets)
        text = "|".join(f"{s.fingerprint}*{w:.6g}" for s, w in zip(sets, weights, strict=True))
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16] if len(sets) > 1 else sets[0].fingerprint
        self._length = sum(totals)

    def __len__(self) -> int:
        return self._length

    def bucket_at(self, seed: int, step: int) -> tuple[Bucket, int]:
        """The bucket of `step`, and how many steps had it before."""
        which, number = deal(self._weights, seed, "bucket", step)
        return self.buckets[which], number

    def item_at(self, seed: int, bucket: Bucket, position: int) -> Item:
        """Sample `position` of all that steps with `bucket` show."""
        shares = self._shares[bucket]
        which, place = deal(tuple(weight for _, weight in shares), seed, f"set.{bucket.name}", position)
        clips = self.sets[shares[which][0]]
        number, _ = item_at(clips.buckets[bucket], seed, place)
        return clips.item(bucket, number)

    def empty(self) -> Item | None:
        """Features of the empty caption, where a set stores them."""
        return next((empty for empty in (s.empty() for s in self.sets) if empty is not None), None)


class BucketBatches(Batches):
    """`Batches` of a mixture: every batch is of one bucket and says its name under "bucket"."""

    _rows: Mixture

    def at(self, step: int) -> Any:
        """The batch of `step`, read in this process: this host's rows of it."""
        bucket, number = self._rows.bucket_at(self._seed, step)
        first = number * self._global + self._offset
        items = [self._rows.item_at(self._seed, bucket, first + i) for i in range(self._local)]
        batch: Any = self._collate(items)
        return batch | {"bucket": bucket.name}


@dataclasses.dataclass(frozen=True)
class WeightedPath:
    """A folder with its weight, None where none was said."""

    path: Path
    weight: float | None


def parse_paths(text: str) -> list[WeightedPath]:
    """Folders of "A", "A,B" or "A:3,B:1". Raises UserError for weights of some only, or that are no numbers."""
    if Path(text).exists():
        return [WeightedPath(Path(text), None)]
    found = []
    for part in text.split(","):
        name, _, weight = part.rpartition(":")
        try:
            found.append(WeightedPath(Path(name), float(weight)) if name else WeightedPath(Path(part), None))
        except ValueError:
            found.append(WeightedPath(Path(part), None))
    said = [f.weight is not None for f in found]
    if any(said) and not all(said):
        raise UserError(f"In '{text}' some folders have a weight and some have none; write FOLDER:WEIGHT for all.")
    return found


def open_mixture(text: str, open_set: Callable[[Path], Clips | None]) -> Mixture | None:
    """The mixture of the folders that `text` names, see `parse_paths`; None when the first is no data set of clips.

    open_set: a folder's data set, or None. Without weights every clip counts alike. Raises UserError when only some of
    the folders are data sets.
    """
    paths = parse_paths(text)
    sets = [open_set(p.path) for p in paths]
    if sets[0] is None and len(sets) == 1:
        return None
    for path, clips in zip(paths, sets, strict=True):
        if clips is None:
            raise UserError(f"The folder '{path.path}' holds no prepared clips; only such can be mixed.")
    known = [s for s in sets if s is not None]
    weights = [p.weight if p.weight is not None else sum(s.buckets.values()) for p, s in zip(paths, known, strict=True)]
    return Mixture(known, weights)
