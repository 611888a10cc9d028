"""Norm and rotation of q or k as TPU kernels of their own, and their derivative: one pass over memory each.

For what attention's kernel does not do itself: its backward pass, and keys that travel between devices. The compiler's
own form of the rotation splits registers in halves and takes five passes, most of them in float32.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ltx_jax.kernels.prologue import Side
from ltx_jax.kernels.tiles import DEFAULT, LANES, Tile, fit
from ltx_jax.kernels.tpu_common import Array, Call, bytes_of, column, compile_options
from ltx_jax.kernels.tpu_prologue import SideInputs, prepare_keys, rotated, side_inputs, turned_pieces

ROWS = 512


def prepare_tiles(
    x: Array, side: Side, factor: float = 1.0, *, tile: Tile | None = None, interpret: Any = False
) -> Array:
    """As `prologue.prepare`, split rotation, of x: (B, T, N, K) in heads that the kernels take (`tpu.unsupported`)."""
    call = _call(x, tile, interpret)
    flat, sides = x.reshape(*x.shape[:2], -1), side_inputs(side, factor)  # (B, T, N * K)
    tokens, others = _specs(call, sides)
    out = pl.pallas_call(
        functools.partial(_prepare_kernel, call),
        grid=(x.shape[0], call.heads // call.pack, pl.cdiv(call.queries, _rows(call))),
        in_specs=[tokens, others],
        out_specs=tokens,
        out_shape=jax.ShapeDtypeStruct(flat.shape, x.dtype),
        cost_estimate=_cost(8, flat, flat, *sides),
        name="tpu_attention_prepare",
        **compile_options(call, ("parallel", "parallel", "parallel")),
    )(flat, sides)
    return out.reshape(x.shape)


def pull_tiles(
    x: Array, side: Side, cotangent: Array, factor: float = 1.0, *, tile: Tile | None = None, interpret: Any = False
) -> tuple[Array, Array, Array]:
    """Cotangents of x (B, T, N, K), of side.inverse (B, T) float32 and of side.weight (N, K) float32.

    cotangent: (B, T, N, K), of `prepare_tiles(x, side, factor)`.
    """
    call = _call(x, tile, interpret)
    flat = lambda y: y.reshape(*y.shape[:2], -1)  # (B, T, N * K)
    sides, (batch, blocks) = side_inputs(side, factor), (x.shape[0], call.heads // call.pack)
    tokens, others = _specs(call, sides)
    out = [
        jax.ShapeDtypeStruct(flat(x).shape, x.dtype),
        jax.ShapeDtypeStruct((batch, blocks, 1, call.queries), jnp.float32),
        jax.ShapeDtypeStruct((batch, call.heads * call.head, LANES), jnp.float32),
    ]
    dx, d_inverse, d_weight = pl.pallas_call(
        functools.partial(_pull_kernel, call),
        grid=(batch, blocks, pl.cdiv(call.queries, _rows(call))),
        in_specs=[tokens, tokens, others],
        out_specs=[
            tokens,
            pl.BlockSpec((None, None, 1, _rows(call)), lambda b, h, i: (b, h, 0, i)),
            pl.BlockSpec((None, call.width, LANES), lambda b, h, i: (b, h, 0)),
        ],
        out_shape=out,
        cost_estimate=_cost(14, *out, *out[:1], *sides),
        name="tpu_attention_pull",
        **compile_options(call, ("parallel", "parallel", "arbitrary")),
    )(flat(x), flat(cotangent), sides)
    return dx.reshape(x.shape), factor * d_inverse.sum((1, 2)), d_weight.sum((0, 2)).reshape(x.shape[2:])


def _call(x: Array, tile: Tile | None, interpret: Any) -> Call:
    _, tokens, heads, width = x.shape
    return Call(tokens, tokens, heads, width, False, None, False, tile or DEFAULT, interpret)


def _rows(call: Call) -> int:
    return fit(call.queries, ROWS)


def _cost(operations: int, x: Any, *others: Any) -> pl.CostEstimate:
    """operations: floating-point operations per entry of x; all arrays are read or written once."""
    return pl.CostEstimate(flops=operations * x.size, transcendentals=0, bytes_accessed=bytes_of((x, *others)))


def _specs(call: Call, sides: SideInputs) -> tuple[pl.BlockSpec, SideInputs]:
    """Blocks of (B, T, N * K) arrays and of a side; the grid is (batch, head blocks, row blocks)."""
    rows, width, table = _rows(call), call.width, sides.table
    shared = table is not None and table.shape[0] == 1
    return pl.BlockSpec((None, rows, width), lambda b, h, i: (b, i, h)), SideInputs(
        inverse=pl.BlockSpec((None, 1, rows), lambda b, h, i: (b, 0, i)),
        weight=pl.BlockSpec((1, width), lambda b, h, i: (0, h)),
        table=None if table is None else pl.BlockSpec((None, rows, width), lambda b, h, i: (0 if shared else b, i, h)),
    )


def _prepare_kernel(call: Call, x: Any, side: SideInputs, out: Any) -> None:
    prepare_keys(call, x, side, out)


def _pull_kernel(call: Call, x: Any, cotangent: Any, side: SideInputs, dx: Any, d_inverse: Any, d_weight: Any) -> None:
    """d_weight: (width, LANES) sums over all rows that share a lane; XLA adds the lanes."""
    i = pl.program_id(2)

    @pl.when(i == 0)
    def _() -> None:
        d_weight[...] = jnp.zeros_like(d_weight)

    weight = column(side.weight[...], LANES)
    for rows, (turned, d), table in turned_pieces((x, cotangent), side.table):
        d, inverse = rotated(call, d, table, -1), side.inverse[:, rows]
        product = d * turned
        dx[rows, :] = (d * weight * inverse).astype(dx.dtype).T
        d_inverse[:, rows] = jnp.sum(product * weight, axis=0, keepdims=True)
        of_weight = product * inverse
        if call.queries % x.shape[0]:
            row = i * x.shape[0] + rows.start + jax.lax.broadcasted_iota(jnp.int32, of_weight.shape, 1)
            of_weight = jnp.where(row < call.queries, of_weight, 0.0)
        d_weight[...] += of_weight
