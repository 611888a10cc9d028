"""What the forward and backward TPU kernels of neighbourhood attention share: frames kept at hand, and the mask.

Layout. q, k, v are (B, T, H, W, N * K); a step takes 128 columns, one head of 128 or 128 / K narrower ones. Keys and
values stay in HBM. Of a column of blocks (same rows and columns, all frames) the frames around the present block are
kept in VMEM as a ring: frame f in slot f mod slots. The frames that the next step adds are copied while this one
computes, so each is read once per column of blocks.

The mask costs no vector instruction per score: it is a part of the product. A head narrower than the matrix unit's
depth leaves lanes unused; there each key carries ones at three places that name its slot, its row and its column
within the surroundings, and each query carries -2^100 at the slots, rows and columns that its window leaves out. Both
are exact in bfloat16, so a visible pair's score is exactly q k, and a hidden one's is below -1e30.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels.tiles import LANES, MIB
from ltx_jax.kernels.tpu_common import pairs_cost, pallas_options
from ltx_jax.kernels.tpu_neighbourhood_cut import Cut

Array = jax.Array
HIDING = -(2.0**100)  # a query's entry for what it does not see
VMEM = 48 * MIB  # the limit that a kernel asks for; bfloat16 takes up to 10 MiB forward and 23 backward


def grid_of(cut: Cut, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The steps of a kernel on arrays (B, T, H, W, N * K): batch, head blocks, rows, columns, frames (innermost)."""
    frames, rows, columns = cut.counts
    return shape[0], shape[4] // cut.width, rows, columns, frames


def compile_options(roles: tuple[Any, ...], interpret: Any) -> dict[str, Any]:
    """What a pallas_call is given besides its grid."""
    return pallas_options(roles, VMEM, interpret)


def query_spec(cut: Cut) -> pl.BlockSpec:
    """The block of queries (or of what is shaped like them) of a step."""
    return pl.BlockSpec((None, *cut.block, cut.width), lambda b, g, h, w, t: (b, t, h, w, g))


def row_spec(cut: Cut) -> pl.BlockSpec:
    """The block of a statistic, (B, N / pack, blocks of frames, rows, columns, pack, queries of a block)."""
    return pl.BlockSpec(
        (None, None, None, None, None, cut.pack, cut.queries), lambda b, g, h, w, t: (b, g, t, h, w, 0, 0)
    )


def ring_shapes(cut: Cut, dtype: Any) -> list[Any]:
    """Scratch of `Ring`: landing places of k and v, coded keys per head, values, semaphores."""
    landing = pltpu.VMEM((cut.slots, cut.rows, cut.cols, cut.width), dtype)
    coded = pltpu.VMEM((cut.pack, cut.slots, cut.keys, cut.depth), dtype)
    values = pltpu.VMEM((cut.slots, cut.width, cut.keys), dtype)
    return [landing, landing, coded, values, pltpu.SemaphoreType.DMA((2,))]


class Ring:
    """The frames of keys and values around the present step, in VMEM.

    coded: (pack, slots, rows * cols, depth) keys of each head with their codes; values: (slots, width, rows * cols),
    transposed, as the product wants them.
    """

    def __init__(self, cut: Cut, k: Any, v: Any, scratch: Any) -> None:
        """k, v: the arrays in HBM; scratch: the refs of `ring_shapes`."""
        self.cut, self.sources = cut, (k, v)
        *self.landing, self.coded, self.values, self.semaphores = scratch
        self.batch, self.group, self.row, self.column, self.step = (pl.program_id(axis) for axis in range(5))
        self.block = self.step, self.row, self.column  # the block of queries, by its number along each axis

    def turn(self) -> None:
        """Bring the ring to the present step, and start to copy what the next one adds."""
        column, step = self.column, self.step
        columns, steps = pl.num_programs(3), pl.num_programs(4)

        @pl.when((column == 0) & (step == 0))
        def _() -> None:
            self._write_codes()
            self._each(column, step, self._start)

        # All are awaited before one is read: copies that share a semaphore may arrive in any order.
        self._each(column, step, self._await)
        self._each(column, step, self._store)
        ends = step == steps - 1

        @pl.when(~(ends & (column == columns - 1)))
        def _() -> None:
            self._each(jnp.where(ends, column + 1, column), jnp.where(ends, 0, step + 1), self._start)

    def _each(self, column: Array, step: Array, act: Any) -> None:
        """act(place, frame, column) for every frame that a step adds to the ring."""
        slots = self.cut.slots
        end = self.cut.origin(0, step) + slots
        begin = jnp.where(step == 0, end - slots, self.cut.origin(0, jnp.maximum(step - 1, 0)) + slots)
        jax.lax.fori_loop(0, end - begin, lambda n, _: act(n, begin + n, column), None)

    def place(self, frame: Array, column: Array) -> tuple[Any, ...]:
        """Where a frame of the surroundings lies in an array (B, T, H, W, N * K)."""
        rows = pl.ds(self.cut.origin(1, self.row), self.cut.rows)
        cols = pl.ds(self.cut.column_origin(column), self.cut.cols)
        lanes = pl.ds(pl.multiple_of(self.group * self.cut.width, LANES), self.cut.width)
        return self.batch, frame, rows, cols, lanes

    def _copies(self, place: Array, frame: Array, column: Array) -> list[Any]:
        return [
            pltpu.make_async_copy(source.at[self.place(frame, column)], landing.at[place], semaphore)
            for source, landing, semaphore in zip(
                self.sources, self.landing, (self.semaphores.at[0], self.semaphores.at[1]), strict=True
            )
        ]

    def _start(self, place: Array, frame: Array, column: Array) -> None:
        for copy in self._copies(place, frame, column):
            copy.start()

    def _await(self, place: Array, frame: Array, column: Array) -> None:
        for copy in self._copies(place, frame, column):
            copy.wait()

    def _store(self, place: Array, frame: Array, column: Array) -> None:
        """Put a frame that has arrived into its slot."""
        cut, slot = self.cut, jax.lax.rem(frame, self.cut.slots)
        keys, values = (flat(landing[place]) for landing in self.landing)
        for h in range(cut.pack):
            lanes = slice(h * cut.head, (h + 1) * cut.head)
            self.coded[h, slot, :, slice(0, cut.head) if cut.pack == 1 else lanes] = keys[:, lanes].astype(
                self.coded.dtype
            )
        self.keep(slot, keys, values)

    def keep(self, slot: Array, keys: Array, values: Array) -> None:
        """Keep what else a kernel wants of a frame: (rows * cols, width) float32 each."""
        self.values[slot] = values.T.astype(self.values.dtype)

    def _write_codes(self) -> None:
        """The keys' codes, which depend on slot, row and column alone and stay where they are."""
        cut = self.cut
        shape = (cut.rows, cut.cols, LANES)
        row, col = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
        for h in range(cut.pack):
            place = code_place(cut, h, shape)
            there = (place == cut.slots + row) | (place == cut.slots + cut.rows + col)
            for slot in range(cut.slots):
                code = flat(jnp.where(there | (place == slot), 1.0, 0.0)).astype(self.coded.dtype)
                self.coded[h, slot, :, cut.depth - LANES :] = code


def code_place(cut: Cut, h: int, shape: tuple[int, ...]) -> Array:
    """Which entry of a code the last 128 lanes of head h's keys and queries hold; at least `codes` where none."""
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    return lane if cut.pack == 1 else jnp.bitwise_and(lane - (h + 1) * cut.head, LANES - 1)


def flat(x: Array) -> Array:
    """(..., columns, width) -> (rows, width) float32; columns are whole registers, so nothing moves."""
    return x.astype(jnp.float32).reshape(-1, x.shape[-1])


def inside(cut: Cut, x: Array, block: tuple[Array, Array, Array]) -> Array:
    """x (bt, bh, bw, width) as (queries, width) float32, zero for queries beyond the grid, whatever x holds there."""
    x = x.astype(jnp.float32)
    for axis, length in enumerate((*cut.grid[:2], cut.columns)):
        if length % cut.block[axis]:
            position = block[axis] * cut.block[axis] + jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
            x = jnp.where(position < length, x, 0.0)
    return flat(x)


def coded_queries(cut: Cut, queries: Array, block: tuple[Array, Array, Array], dtype: Any) -> list[Array]:
    """Per head (queries, depth): its columns of `queries` (queries, width), and which keys each leaves out."""
    lane = jax.lax.broadcasted_iota(jnp.int32, queries.shape, 1)
    result = []
    for h in range(cut.pack):
        code = functools.reduce(jnp.add, (_left_out(cut, h, axis, block[axis]) for axis in range(3)))
        code = code.reshape(-1, LANES)
        if cut.pack == 1:
            coded = jnp.concatenate([queries, code], axis=1)
        else:
            coded = jnp.where((lane >= h * cut.head) & (lane < (h + 1) * cut.head), queries, code)
        result.append(coded.astype(dtype))
    return result


def _left_out(cut: Cut, h: int, axis: int, block: Array) -> Array:
    """HIDING at the entries of one axis that a query's window leaves out, else 0: broadcasts to (bt, bh, bw, 128)."""
    shape = [1, 1, cut.block[2], LANES]
    shape[axis] = cut.block[axis]
    first, size = cut.origin(axis, block), (cut.slots, cut.rows, cut.cols)[axis]
    entry = code_place(cut, h, tuple(shape)) - (0, cut.slots, cut.slots + cut.rows)[axis]
    key = first + entry
    if axis == 0:  # the ring: slot -> the frame in it
        turned = entry - jax.lax.rem(first, size)
        key = first + jnp.where(turned < 0, turned + size, turned)
    query = block * cut.block[axis] + jax.lax.broadcasted_iota(jnp.int32, tuple(shape), axis)
    start = cut.starts(axis, query)
    hidden = (entry >= 0) & (entry < size) & ((key < start) | (key >= start + cut.window[axis]))
    return jnp.where(hidden, HIDING, 0.0)


def cost(cut: Cut, q: Array, products: int, exps: int, arrays: list[Any]) -> pl.CostEstimate:
    """products: matrix products per pair; exps: exponentials per pair; arrays: what is read or written."""
    pairs = q.shape[0] * (q.shape[4] // cut.head) * cut.scores
    return pairs_cost(pairs, cut.head, products, exps, arrays)
