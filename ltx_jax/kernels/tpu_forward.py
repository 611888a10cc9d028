"""The forward TPU kernel: softmax(q k^T + bias) v and its log-sum-exp, by online softmax over blocks of keys.

Per score the vector unit does a maximum, a subtraction, a sum and half a pack, the transcendental unit one exp2; the
scale is inside q (tpu_common.py), masks are applied only in blocks that need one. At the default tiles the compiler
schedules 512 x 512 scores of width 128 in 1,120 bundles on v5e and 1,110 on v5p, where the matrix units are the bound
(they are held for 850), and in 660 on v6e and 620 on TPU7x, where vector registers are (exp2 alone takes 256).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels import tpu_common as common
from ltx_jax.kernels.softmax import FLOOR, HIDDEN, LN2, NN, NT
from ltx_jax.kernels.tpu_common import Array, Call, Grid, dot

PACKED_ROWS = 16  # bfloat16 rows in one vector register


def forward(
    call: Call, q: Array, k: Array, v: Array, lengths: Array, keep: Array | None, bias: Array | None
) -> tuple[Array, Array]:
    """Output (B, T, N * K) in q's dtype and log-sum-exp (B, N, 1, T), float32, natural logarithm.

    q: (B, T, N * K), times scale and log2(e); k, v: (B, S, N * K); lengths: (B,) int32, at most S; keep: (B, 1, S)
    float32, 0 hides; bias: (B or 1, N or 1, T or 1, S). A row that sees no key gives zeros and HIDDEN.
    """
    grid = Grid.make(call, call.tile.queries, call.tile.keys, "ij")
    out = (
        jax.ShapeDtypeStruct(q.shape, q.dtype),
        jax.ShapeDtypeStruct((q.shape[0], call.heads, 1, call.queries), jnp.float32),
    )
    queries, keys = common.token_spec(grid, "i"), common.token_spec(grid, "j")
    row = pltpu.VMEM((call.pack, grid.bq), jnp.float32)
    return pl.pallas_call(
        functools.partial(_kernel, grid),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid.shape(q.shape[0]),
            in_specs=[queries, keys, keys, *common.mask_specs(grid, keep, bias)],
            out_specs=[queries, common.row_spec(grid)],
            scratch_shapes=[pltpu.VMEM((call.width, grid.bq), jnp.float32), row, row],
        ),
        out_shape=out,
        cost_estimate=common.cost(call, q.shape[0], 2, 1, [q, k, v, keep, bias, *out]),
        name="tpu_attention_forward",
        **common.compile_options(call, ("parallel", "parallel", "parallel", "arbitrary")),
    )(lengths, q, k, v, keep, bias)


def _kernel(
    grid: Grid,
    lengths: Any,
    q: Any,
    k: Any,
    v: Any,
    keep: Any,
    bias: Any,
    out: Any,
    lse: Any,
    acc: Any,
    top: Any,
    total: Any,
) -> None:
    """One block of queries against one block of keys. acc: (width, bq); top, total: (pack, bq) maximum and sum."""
    i, j, length = pl.program_id(2), pl.program_id(3), lengths[pl.program_id(0)]

    @pl.when(j == 0)
    def _() -> None:
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, FLOOR)
        total[...] = jnp.zeros_like(total)

    def block(masked: bool) -> None:
        items = [(h, c) for h in range(grid.call.pack) for c in range(grid.bk // grid.strip)]
        scores = functools.partial(_scores, grid, q, k, keep, bias, i, j, length, masked)
        following = scores(*items[0])
        for n, (h, c) in enumerate(items):
            s, seen = following
            if n + 1 < len(items):
                following = scores(*items[n + 1])  # issued early: the matrix unit works while this softmax runs
            _accumulate(grid, s, seen, v, acc, top, total, h, c)

    plain = grid.plain(i, j, length, keep is not None, False)
    common.run_masked_or_plain(plain, grid.needed(i, j, length), block)

    @pl.when(j == pl.num_programs(3) - 1)
    def _() -> None:
        for h in range(grid.call.pack):
            rows = slice(h * grid.call.head, (h + 1) * grid.call.head)
            t = total[h : h + 1, :]
            some = t > 0
            acc[rows, :] = acc[rows, :] * jnp.where(some, 1.0 / jnp.where(some, t, 1.0), 0.0)
            found = (top[h : h + 1, :] + jnp.log2(jnp.where(some, t, 1.0))) * LN2
            lse[h] = jnp.where(some, found, HIDDEN)
        out[...] = acc[...].T.astype(out.dtype)


def _scores(
    grid: Grid, q: Any, k: Any, keep: Any, bias: Any, i: Array, j: Array, length: Array, masked: bool, h: int, c: int
) -> tuple[Array, Array | None]:
    """Scores (strip, bq) of strip c for head h, and which of its keys are seen (None: all)."""
    rows = slice(c * grid.strip, (c + 1) * grid.strip)
    s = dot(k[rows, :], common.of_head(grid.call, q[...], h), NT)
    s = common.add_bias(grid, s, bias, h, c)
    if not masked:
        return s, None
    seen = common.seen_keys(grid, j, c, length, keep)
    return common.hide(grid, s, i, j, c, seen, False), seen


def _accumulate(
    grid: Grid, s: Array, seen: Array | None, v: Any, acc: Any, top: Any, total: Any, h: int, c: int
) -> None:
    """Folds a strip of scores into the running maximum, sum and output of head h."""
    before = top[h : h + 1, :]
    now = jnp.maximum(before, jnp.max(s, axis=0, keepdims=True))
    p = jnp.exp2(s - now)
    shrink = jnp.exp2(before - now)
    top[h : h + 1, :] = now
    values = v[c * grid.strip : (c + 1) * grid.strip, :]
    values = values if seen is None else common.zero_rows(values, seen)
    rows = slice(h * grid.call.head, (h + 1) * grid.call.head)
    lhs, p_low = values.T[rows, :], p.astype(values.dtype)  # (head, strip), (strip, bq)
    if grid.call.tile.matrix_sum:
        product = dot(jnp.concatenate([lhs, jnp.ones((PACKED_ROWS, grid.strip), lhs.dtype)], axis=0), p_low, NN)
        added = product[grid.call.head : grid.call.head + 1, :]
    else:
        product = dot(lhs, p_low, NN)
        added = jnp.sum(p, axis=0, keepdims=True)
    total[h : h + 1, :] = total[h : h + 1, :] * shrink + added
    acc[rows, :] = acc[rows, :] * shrink + product[: grid.call.head, :]
