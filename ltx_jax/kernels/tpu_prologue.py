"""The prologue inside the TPU forward kernel: statistic, weight, rotation and scale on the tile.

The tile is turned first, (rows, width) -> (width, rows): the statistic is then a row, the weight a column, and the two
halves that rotate with each other are whole registers, so no lane moves. Queries stay turned, as the scores' product
wants them; keys are turned back. Queries are prepared once per block of them. Keys are prepared once per head, during
the first block of queries, and wait in VMEM for the others, for which they are not fetched again.

What it is worth, from the chips' compilers and not from clocks. Preparing 512 rows of width 128 takes 320 bundles on
v6e, 310 on TPU7x, 440 on v5e and 450 on v5p, 4% or less of the work of a block of queries against 6,144 keys, and as
much again for the keys. One layer's attention with its projections (batch 2, 6,144 tokens, 32 heads of 128, bfloat16)
moves 1.7 GB in place of 7.5 (v6e) or 5.8 (v5p), and 10.6 in place of 18.8, or 10.0 of 16.6, with its gradients; on v6e
the passes that went away were estimated at 9 million cycles, attention itself at 6 million bundles. Without rotation
and with gates (text attention of 1,024 keys) it is 1.3 GB in place of 2.0, but 7.5 in place of 6.4 with gradients,
where q and k are prepared twice: the one case found that moves more.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels.prologue import Side
from ltx_jax.kernels.tiles import LANES
from ltx_jax.kernels.tpu_common import Array, Call, Grid, column, row_spec


class SideInputs(NamedTuple):
    """inverse: (B, 1, T) float32, with the factor of q; weight: (1, N * K) float32; table: (B or 1, T, N * K)."""

    inverse: Any
    weight: Any
    table: Any


class Extras(NamedTuple):
    """What a forward kernel takes beside q, k, v and masks, all optional. gates: (B, N, 1, T) float32.

    Without `q` the queries are prepared and scaled beforehand, without `k` the keys are.
    """

    q: SideInputs | None = None
    k: SideInputs | None = None
    gates: Any = None


def side_inputs(side: Side, factor: float = 1.0) -> SideInputs:
    """A side's arrays as the kernel takes them; factor: multiplied into every row."""
    weight = side.weight.astype(jnp.float32).reshape(1, -1)  # (1, N * K)
    return SideInputs((side.inverse * factor)[:, None, :], weight, side.table)  # (B, 1, T)


def keys_fit(grid: Grid, itemsize: int) -> bool:
    """Whether the prepared keys of a head may wait in VMEM."""
    return grid.key_blocks * grid.bk * grid.call.width * itemsize <= grid.call.tile.resident


def key_spec(grid: Grid, columns: bool, once: bool, shared: bool = False) -> pl.BlockSpec:
    """The block of k or its table, (B or 1 when shared, S, N * K), or with not `columns` of its statistic (B, 1, S).

    once: only the first block of queries reads it; later ones hold its last block, so that nothing is fetched.
    """

    def index(*a: Any) -> tuple[Any, ...]:
        i, j = grid.where(a[:4], a[4])
        if once:
            last = grid.where((a[0], a[1], i, jnp.int32(grid.key_blocks - 1)), a[4])[1]
            j = jnp.where(i == 0, j, last)
        sample = 0 if shared else a[0]
        return (sample, j, a[1]) if columns else (sample, 0, j)

    return pl.BlockSpec((None, grid.bk, grid.call.width) if columns else (None, 1, grid.bk), index)


def extras_specs(grid: Grid, extras: Extras) -> Extras:
    """The blocks of all extras, None for what is absent."""
    width = grid.call.width
    weight = pl.BlockSpec((1, width), lambda *a: (0, a[1]))
    found = Extras(gates=None if extras.gates is None else row_spec(grid))
    if extras.q is not None:
        table, shared = extras.q.table, extras.q.table is not None and extras.q.table.shape[0] == 1
        rows = pl.BlockSpec((None, grid.bq, width), lambda *a: (0 if shared else a[0], a[2], a[1]))
        inverse = pl.BlockSpec((None, 1, grid.bq), lambda *a: (a[0], 0, a[2]))
        found = found._replace(q=SideInputs(inverse, weight, None if table is None else rows))
    if extras.k is not None:
        table = extras.k.table
        rows = None if table is None else key_spec(grid, True, True, table.shape[0] == 1)
        found = found._replace(k=SideInputs(key_spec(grid, False, True), weight, rows))
    return found


def scratch(grid: Grid, extras: Extras, dtype: Any) -> list[Any]:
    """Memory of prepared queries, turned, a copy per head of the block, and of all prepared keys."""
    call = grid.call
    q = pltpu.VMEM((call.pack, call.width, grid.bq), dtype)
    k = pltpu.VMEM((grid.key_blocks, grid.bk, call.width), dtype)
    return [*([q] if extras.q is not None else []), *([k] if extras.k is not None else [])]


def prepare_queries(call: Call, q: Any, side: SideInputs, ready: Any) -> None:
    """Prepared queries of a block; head h of `ready` has the rows of the block's other heads at zero."""
    for rows, y in _prepared(call, q, side):
        turned = y.astype(ready.dtype)  # (width, LANES)
        for h in range(call.pack):
            mine = slice(h * call.head, (h + 1) * call.head)
            if call.pack > 1:
                ready[h, :, rows] = jnp.zeros((call.width, LANES), ready.dtype)
            ready[h, mine, rows] = turned[mine, :]


def prepare_keys(call: Call, k: Any, side: SideInputs, ready: Any) -> None:
    """Prepared keys of a block, (bk, width)."""
    for rows, y in _prepared(call, k, side):
        ready[rows, :] = y.astype(ready.dtype).T


def _prepared(call: Call, x: Any, side: SideInputs) -> Iterator[tuple[slice, Array]]:
    """Slices of LANES rows of x, and those normalised, weighted and rotated, turned: (width, LANES) float32."""
    weight = column(side.weight[...], LANES)
    for rows, turned, table in turned_pieces((x,), side.table):
        yield rows, rotated(call, turned[0] * side.inverse[:, rows] * weight, table)


def turned_pieces(arrays: tuple[Any, ...], table: Any) -> Iterator[tuple[slice, list[Array], Array | None]]:
    """Slices of LANES rows with those of every array and of the table turned, (width, LANES) float32.

    The next piece is turned before the present one is used: turning takes long but needs no arithmetic unit.
    """
    turn = lambda x, rows: x[rows, :].T.astype(jnp.float32)
    pieces = [slice(c, c + LANES) for c in range(0, arrays[0].shape[0], LANES)]
    get = lambda rows: (rows, [turn(x, rows) for x in arrays], None if table is None else turn(table, rows))
    following = get(pieces[0])
    for n in range(len(pieces)):
        present = following
        if n + 1 < len(pieces):
            following = get(pieces[n + 1])
        yield present


def rotated(call: Call, y: Array, table: Array | None, direction: int = 1) -> Array:
    """y (width, LANES) rotated by the turned table; direction -1: back. Without a table y itself."""
    if table is None:
        return y
    half, parts = call.head // 2, []
    for first in range(0, call.width, call.head):
        a, b = y[first : first + half], y[first + half : first + call.head]
        cos, sin = table[first : first + half], table[first + half : first + call.head]
        parts += [a * cos - b * sin, b * cos + a * sin] if direction > 0 else [a * cos + b * sin, b * cos - a * sin]
    return jnp.concatenate(parts, axis=0)
