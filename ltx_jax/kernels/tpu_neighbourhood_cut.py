"""How the TPU kernel of neighbourhood attention cuts a grid: blocks of queries, their surroundings, visibility codes.

A step handles a block of bt x bh x bw queries, 128 or 256 in all, one register's or one matrix unit's width of lanes,
against all keys that any of them sees: `slots` frames of `rows` x `cols`. Every pair of the two is computed, visible or
not. With a window of K an axis costs (b + K - 1) / K, so small blocks waste least. Columns lie on sublanes and copies
begin at multiples of 8, which rounds their surroundings up. Scores computed per score needed at the released windows,
on large grids:

    window         128 queries             256 queries
    11 x 11 x 11   3.5 (4 x 4 x 8)         4.5 (4 x 8 x 8)
    3 x 7 x 7      8.7 (2 x 4 x 16)        12.2 (2 x 8 x 16)
    3 x 5 x 5      13.7 (2 x 4 x 16)       20.5 (2 x 4 x 32)

(The plain blocked form: 3.4, 8.0 and 11.5 at its 4 x 8 x 8, whose surroundings need no rounding.) The window of
11 x 11 x 11 of stage 5 is where the decoder's time goes: 1,331 keys a query, on its largest grid, in most layers; the
others are a hundredth of it.

`Cut.best` picks the block of a grid by this count. Frames are walked innermost, so each is copied and prepared once per
column of blocks: only bt frames are new at a step.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ltx_jax.kernels.tiles import LANES
from ltx_jax.kernels.tpu_common import HeadBlock

Array = jax.Array
Sizes = tuple[int, int, int]
SUBLANES = 8  # columns of the grid that share a tile in memory
WIDE = ("TPU v6", "TPU7x")  # whose matrix units are 256 wide


def queries_for(device_kind: str) -> int:
    """Queries of a block on a device, by its kind as JAX spells it."""
    return 2 * LANES if device_kind.startswith(WIDE) else LANES


@dataclasses.dataclass(frozen=True)
class Cut(HeadBlock):
    """One call's cut (hashable). grid: (T, H, W), W as in memory, a multiple of 8; columns: those of W that exist."""

    grid: Sizes
    columns: int
    window: Sizes
    block: Sizes
    head: int

    @classmethod
    def best(cls, grid: tuple[int, ...], window: Sizes, head: int, queries: int) -> "Cut | None":
        """The cut of (T, H, W) into blocks of `queries` that computes the fewest scores; None if no code fits."""
        padded = (grid[0], grid[1], -(-grid[2] // SUBLANES) * SUBLANES)
        powers = [2**n for n in range(queries.bit_length())]
        blocks = [b for b in itertools.product(powers, repeat=3) if math.prod(b) == queries and b[2] >= SUBLANES]
        cuts = [cls(padded, grid[2], window, block, head) for block in blocks]
        fitting = [cut for cut in cuts if cut.codes <= cut.code_lanes]
        return min(fitting, key=lambda cut: (cut.scores, cut.rows * cut.cols * cut.block[0]), default=None)

    @property
    def queries(self) -> int:
        """Queries of a block."""
        return math.prod(self.block)

    @property
    def counts(self) -> Sizes:
        """Blocks along each axis."""
        t, h, w = (-(-n // b) for n, b in zip(self.grid, self.block, strict=True))
        return t, h, w

    @property
    def slots(self) -> int:
        """Frames of the surroundings."""
        return min(self.grid[0], self.block[0] + self.window[0] - 1)

    @property
    def rows(self) -> int:
        """Rows of the surroundings."""
        return min(self.grid[1], self.block[1] + self.window[1] - 1)

    @property
    def cols(self) -> int:
        """Columns of the surroundings, whole tiles."""
        before = self.window[2] // 2
        around = sum(-(-n // SUBLANES) * SUBLANES for n in (before, self.window[2] - 1 - before))
        return min(self.grid[2], around + self.block[2])

    @property
    def keys(self) -> int:
        """Keys of one frame of the surroundings."""
        return self.rows * self.cols

    @property
    def scores(self) -> int:
        """Scores computed per head over the whole grid."""
        return math.prod(self.counts) * self.queries * self.slots * self.keys

    @property
    def codes(self) -> int:
        """Entries of a visibility code."""
        return self.slots + self.rows + self.cols

    @property
    def code_lanes(self) -> int:
        """Lanes that a code may take: those of the other heads, whose products are padding anyway, or 128 more."""
        return LANES - self.head if self.head < LANES else LANES

    @property
    def depth(self) -> int:
        """Lanes of a coded key: its head's columns and the code."""
        return LANES if self.head < LANES else self.head + LANES

    def origin(self, axis: int, block: Array) -> Array:
        """The first frame, row or column of the surroundings of a block, by its number along the axis."""
        size = (self.slots, self.rows, self.cols)[axis]
        first = block * self.block[axis] - self.window[axis] // 2
        if axis == 2:
            first = jnp.bitwise_and(first, -SUBLANES)
        return jnp.clip(first, 0, self.grid[axis] - size)

    def column_origin(self, block: Array) -> Array:
        """`origin` of the columns, as a number that the compiler knows to be a multiple of 8."""
        return pl.multiple_of(self.origin(2, block), SUBLANES)

    def starts(self, axis: int, position: Array) -> Array:
        """The first key that a query at `position` sees along the axis (beyond the end: as the last query)."""
        length = (*self.grid[:2], self.columns)[axis]
        return jnp.clip(position - self.window[axis] // 2, 0, length - self.window[axis])
