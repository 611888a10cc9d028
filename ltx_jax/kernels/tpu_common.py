"""What the forward and backward TPU kernels share: the static description of a call, its blocks, and its masks.

Layout. q, k, v stay as the projections made them, (B, T, N * K): a block takes `width` = max(K, 128) columns, that is
one head of 128 or `pack` = 128 / K narrower heads, so nothing is transposed in memory. Scores are kept transposed, keys
on sublanes and queries on lanes: reductions over keys are then plain vector operations, statistics are dense rows
(1, bq) in registers and in memory, and neither needs a broadcast across lanes.

Units. The scale and log2(e) are multiplied into q beforehand (`tpu.py`): p = exp2(s - m), s straight from the product.

Indices are block numbers and positions within one axis, never offsets into a flattened array: nothing overflows 32 bits
until one axis has 2^31 entries.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels.softmax import HIDDEN, LOG2E
from ltx_jax.kernels.tiles import LANES, Tile, fit

Array = jax.Array


class HeadBlock:
    """The columns that one step handles: a head of 128 or more, or as many narrower ones as fill 128 lanes.

    head: K, a field of whoever inherits.
    """

    head: int

    @property
    def pack(self) -> int:
        """Heads in one block of columns."""
        return max(1, LANES // self.head)

    @property
    def width(self) -> int:
        """Columns of one block."""
        return self.pack * self.head


@dataclasses.dataclass(frozen=True)
class Call(HeadBlock):
    """The static half of one attention call (hashable). head: K. limited: a length per sample was given."""

    queries: int
    keys: int
    heads: int
    head: int
    causal: bool
    window: int | None
    limited: bool
    tile: Tile
    interpret: bool | pltpu.InterpretParams


@dataclasses.dataclass(frozen=True)
class Grid:
    """One kernel's cut of a call. bq, bk, strip: block sizes. i_axis, j_axis: grid axes of query and key blocks."""

    call: Call
    bq: int
    bk: int
    strip: int
    i_axis: int
    j_axis: int

    @classmethod
    def make(cls, call: Call, queries: int, keys: int, order: str) -> "Grid":
        """Blocks of at most queries x keys; order "ij" walks the keys innermost, "ji" the queries."""
        strip = min(call.tile.strip, fit(call.keys, keys))
        bk = fit(call.keys, keys, strip)
        strip = strip if bk % strip == 0 else LANES
        return cls(call, fit(call.queries, queries), bk, strip, 2 + order.index("i"), 2 + order.index("j"))

    @property
    def query_blocks(self) -> int:
        return pl.cdiv(self.call.queries, self.bq)

    @property
    def key_blocks(self) -> int:
        return pl.cdiv(self.call.keys, self.bk)

    def shape(self, batch: int) -> tuple[int, ...]:
        """The grid (batch, head blocks, and query and key blocks in order)."""
        sizes = (self.query_blocks, self.key_blocks)
        return (batch, self.call.heads // self.call.pack, *(sizes if self.i_axis < self.j_axis else sizes[::-1]))

    def where(self, ids: tuple[Any, ...], lengths: Any) -> tuple[Any, Any]:
        """(i, j) of the blocks to hold at a grid point: a block that is not needed is replaced by its nearest needed
        one, which is already there or comes next, so that skipped blocks cost no transfer."""
        i, j = ids[self.i_axis], ids[self.j_axis]
        call = self.call
        if self.j_axis > self.i_axis:
            last = jax.lax.div(lengths[ids[0]] + (self.bk - 1), self.bk) - 1
            if call.causal:
                last = jnp.minimum(last, jax.lax.div((i + 1) * self.bq - 1, self.bk))
            if call.window is not None:
                j = jnp.maximum(j, jax.lax.div(jnp.maximum(i * self.bq - call.window + 1, 0), self.bk))
            return i, jnp.maximum(jnp.minimum(j, last), 0)
        if call.window is not None:
            i = jnp.minimum(i, jax.lax.div((j + 1) * self.bk + call.window - 2, self.bq))
        if call.causal:
            i = jnp.minimum(jnp.maximum(i, jax.lax.div(j * self.bk, self.bq)), self.query_blocks - 1)
        return i, j

    def needed(self, i: Array, j: Array, length: Array) -> Array:
        """Whether any pair of block (i, j) can be visible."""
        result = j * self.bk < length
        if self.call.causal:
            result &= j * self.bk <= i * self.bq + (self.bq - 1)
        if self.call.window is not None:
            result &= i * self.bq - (j * self.bk + (self.bk - 1)) < self.call.window
        return result

    def plain(self, i: Array, j: Array, length: Array, has_keep: bool, whole_queries: bool) -> Array | bool:
        """Whether block (i, j) needs no mask at all: True or False when known now, else a scalar of the kernel."""
        call = self.call
        if has_keep:
            return False
        parts: list[Array] = []
        if call.limited or call.keys % self.bk:
            parts.append((j + 1) * self.bk <= length)
        if call.causal:
            parts.append(j * self.bk + (self.bk - 1) <= i * self.bq)
        if call.window is not None:
            parts.append(i * self.bq + (self.bq - 1) - j * self.bk < call.window)
        if whole_queries and call.queries % self.bq:
            parts.append((i + 1) * self.bq <= call.queries)
        return functools.reduce(jnp.logical_and, parts) if parts else True


def run_masked_or_plain(plain: Array | bool, needed: Array, body: Any) -> None:
    """body(masked) where the block is needed: compiled once or twice, as `plain` requires."""
    if plain is not False:
        pl.when(needed & plain if plain is not True else needed)(lambda: body(False))
    if plain is not True:
        pl.when(needed & ~plain if plain is not False else needed)(lambda: body(True))


def dot(a: Array, b: Array, dimensions: Any) -> Array:
    """Product with a float32 result; float32 inputs in full precision."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def column(row: Array, lanes: int) -> Array:
    """(1, n) along lanes -> (n, lanes) along sublanes; lanes a multiple of 128."""
    return widen(jnp.broadcast_to(row, (LANES, row.shape[1])).T, lanes)


def widen(x: Array, lanes: int) -> Array:
    """Repeats (n, 128), whose columns are all the same, to (n, lanes)."""
    return x if lanes == LANES else jnp.concatenate([x] * (lanes // LANES), axis=1)


def of_head(block: HeadBlock, x: Array, h: int) -> Array:
    """x (rows, width) with the columns of the block's other heads at zero: a product over all is then head h's."""
    if block.pack == 1:
        return x
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    mine = (lane >= h * block.head) & (lane < (h + 1) * block.head)
    return jnp.where(mine, x.astype(jnp.float32), 0.0).astype(x.dtype)


def zero_rows(x: Array, seen: Array) -> Array:
    """x (n, width) with hidden rows at zero, whatever they hold (padding may be NaN). seen: (n, 128) float32 0 or 1."""
    return jnp.where(widen(seen, x.shape[1]) > 0, x.astype(jnp.float32), 0.0).astype(x.dtype)


def seen_keys(grid: Grid, j: Array, c: int, length: Array, keep_ref: Any) -> Array:
    """(strip, 128) float32: 1 where key is visible to the sample, the same in all columns."""
    position = j * grid.bk + c * grid.strip + jax.lax.broadcasted_iota(jnp.int32, (grid.strip, LANES), 0)
    seen = jnp.where(position < length, 1.0, 0.0)
    if keep_ref is not None:
        seen = jnp.where(column(keep_ref[:, c * grid.strip : (c + 1) * grid.strip], LANES) > 0, seen, 0.0)
    return seen


def hide(grid: Grid, scores: Array, i: Array, j: Array, c: int, seen: Array, check_queries: bool) -> Array:
    """Puts hidden pairs of scores (strip, bq) at HIDDEN, whatever they hold."""
    call = grid.call
    visible = widen(seen, grid.bq) > 0
    if call.causal or check_queries:
        query = i * grid.bq + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        if check_queries:
            visible &= query < call.queries
        if call.causal:
            ahead = query - (j * grid.bk + c * grid.strip + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0))
            visible &= ahead >= 0
            if call.window is not None:
                visible &= ahead < call.window
    return jnp.where(visible, scores, HIDDEN)


def add_bias(grid: Grid, scores: Array, bias_ref: Any, h: int, c: int) -> Array:
    """scores (strip, bq) plus the block of the bias, (heads or 1, bq or 1, bk), turned to their orientation."""
    if bias_ref is None:
        return scores
    piece = bias_ref[h if bias_ref.shape[0] > 1 else 0, :, c * grid.strip : (c + 1) * grid.strip].astype(jnp.float32)
    return scores + (column(piece, grid.bq) if piece.shape[0] == 1 else piece.T) * LOG2E


def token_spec(grid: Grid, which: str) -> pl.BlockSpec:
    """The block of a (B, T or S, N * K) array; which: "i" for queries, "j" for keys."""
    rows = grid.bq if which == "i" else grid.bk
    pick = "ij".index(which)
    return pl.BlockSpec((None, rows, grid.call.width), lambda *a: (a[0], grid.where(a[:4], a[4])[pick], a[1]))


def row_spec(grid: Grid) -> pl.BlockSpec:
    """The block of a statistic (B, N, 1, T)."""
    return pl.BlockSpec((None, grid.call.pack, 1, grid.bq), lambda *a: (a[0], a[1], 0, grid.where(a[:4], a[4])[0]))


def mask_specs(grid: Grid, keep: Array | None, bias: Array | None) -> list[pl.BlockSpec | None]:
    """Blocks of keep (B, 1, S) and of bias (B or 1, N or 1, T or 1, S), None for what is absent."""
    specs: list[pl.BlockSpec | None] = [None, None]
    if keep is not None:
        specs[0] = pl.BlockSpec((None, 1, grid.bk), lambda *a: (a[0], 0, grid.where(a[:4], a[4])[1]))
    if bias is not None:
        many = tuple(size > 1 for size in bias.shape[:3])

        def index(*a: Any) -> tuple[Any, ...]:
            i, j = grid.where(a[:4], a[4])
            return (a[0] if many[0] else 0, a[1] if many[1] else 0, i if many[2] else 0, j)

        block = (None, grid.call.pack if many[1] else 1, grid.bq if many[2] else 1, grid.bk)
        specs[1] = pl.BlockSpec(block, index)
    return specs


def cost(call: Call, batch: int, products: int, exps: int, arrays: list[Any]) -> pl.CostEstimate:
    """products: matrix products per pair; exps: exponentials per pair; arrays: what is read or written once."""
    pairs = batch * call.heads * call.queries * call.keys
    if call.causal:
        pairs = pairs // 2 if call.window is None else batch * call.heads * call.queries * min(call.window, call.keys)
    return pairs_cost(pairs, call.head, products, exps, arrays)


def pairs_cost(pairs: int, head: int, products: int, exps: int, arrays: Iterable[Any]) -> pl.CostEstimate:
    """Of `pairs` pairs of query and key; the rest as `cost` takes it."""
    flops, moved = 2 * products * pairs * head, bytes_of(arrays)
    return pl.CostEstimate(flops=flops, transcendentals=exps * pairs, bytes_accessed=moved)


def bytes_of(arrays: Iterable[Any]) -> int:
    """Bytes of arrays, of which None are absent."""
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in arrays if x is not None)


def compile_options(call: Call, semantics: tuple[Any, ...]) -> dict[str, Any]:
    """What an attention kernel's pallas_call is given besides its grid."""
    return pallas_options(semantics, call.tile.vmem, call.interpret)


def pallas_options(semantics: tuple[Any, ...], vmem: int, interpret: Any) -> dict[str, Any]:
    """What every TPU pallas_call of this package is given besides its grid. vmem: the limit in bytes."""
    parameters = pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=vmem)
    return {"compiler_params": parameters, "interpret": interpret}
