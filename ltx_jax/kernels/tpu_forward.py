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
from ltx_jax.kernels import tpu_prologue as prologue
from ltx_jax.kernels.softmax import FLOOR, HIDDEN, LN2, NN, NT
from ltx_jax.kernels.tpu_common import Array, Call, Grid, dot
from ltx_jax.kernels.tpu_prologue import Extras

PACKED_ROWS = 16  # bfloat16 rows in one vector register


def forward(
    call: Call,
    q: Array,
    k: Array,
    v: Array,
    lengths: Array,
    keep: Array | None,
    bias: Array | None,
    extras: Extras = Extras(),
) -> tuple[Array, Array]:
    """Output (B, T, N * K) in q's dtype and log-sum-exp (B, N, 1, T), float32, natural logarithm.

    q: (B, T, N * K), times scale and log2(e); k, v: (B, S, N * K); lengths: (B,) int32, at most S; keep: (B, 1, S)
    float32, 0 hides; bias: (B or 1, N or 1, T or 1, S). extras: prologue and gates, for calls that are not causal; with
    extras.q and extras.k (which wants `prologue.keys_fit`) q and k are raw. A row that sees no key gives zeros and
    HIDDEN.
    """
    grid = forward_grid(call)
    out = (
        jax.ShapeDtypeStruct(q.shape, q.dtype),
        jax.ShapeDtypeStruct((q.shape[0], call.heads, 1, call.queries), jnp.float32),
    )
    queries, values = common.token_spec(grid, "i"), common.token_spec(grid, "j")
    keys = values if extras.k is None else prologue.key_spec(grid, True, True)
    row = pltpu.VMEM((call.pack, grid.bq), jnp.float32)
    inputs = (q, k, v, keep, bias, extras)
    # Prepared keys pass from one block of queries to the next.
    semantics = ("parallel", "parallel", "parallel" if extras.k is None else "arbitrary", "arbitrary")
    return pl.pallas_call(
        functools.partial(_kernel, grid),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid.shape(q.shape[0]),
            in_specs=[queries, keys, values, *common.mask_specs(grid, keep, bias), prologue.extras_specs(grid, extras)],
            out_specs=[queries, common.row_spec(grid)],
            scratch_shapes=[
                pltpu.VMEM((call.width, grid.bq), jnp.float32),
                row,
                row,
                *prologue.scratch(grid, extras, q.dtype),
            ],
        ),
        out_shape=out,
        cost_estimate=common.cost(call, q.shape[0], 2, 1, [*jax.tree.leaves(inputs), *out]),
        name="tpu_attention_forward",
        **common.compile_options(call, semantics),
    )(lengths, *inputs)


def forward_grid(call: Call) -> Grid:
    """How the forward kernel cuts a call."""
    return Grid.make(call, call.tile.queries, call.tile.keys, "ij")


def _kernel(grid: Grid, lengths: Any, *refs: Any) -> None:
    """One block of queries against one block of keys. acc: (width, bq); top, total: (pack, bq) maximum and sum."""
    (q, k, v, keep, bias, extras), (out, lse, acc, top, total, *rest) = refs[:6], refs[6:]
    i, j, length = pl.program_id(2), pl.program_id(3), lengths[pl.program_id(0)]
    q_ready: Any = rest.pop(0) if extras.q is not None else None
    k_ready: Any = rest.pop(0).at[j] if extras.k is not None else k
    needed = grid.needed(i, j, length)

    @pl.when(j == 0)
    def _() -> None:
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, FLOOR)
        total[...] = jnp.zeros_like(total)
        if q_ready is not None:
            prologue.prepare_queries(grid.call, q, extras.q, q_ready)

    if extras.k is not None:
        pl.when(needed & (i == 0))(lambda: prologue.prepare_keys(grid.call, k, extras.k, k_ready))

    def block(masked: bool) -> None:
        items = [(h, c) for h in range(grid.call.pack) for c in range(grid.bk // grid.strip)]
        turned = [q_ready[h] if q_ready is not None else None for h in range(grid.call.pack)]
        scores = lambda h, c: _scores(grid, (q, turned[h]), k_ready, (keep, bias), (i, j, length), masked, h, c)
        following = scores(*items[0])
        for n, (h, c) in enumerate(items):
            s, seen = following
            if n + 1 < len(items):
                following = scores(*items[n + 1])  # issued early: the matrix unit works while this softmax runs
            _accumulate(grid, s, seen, v, acc, top, total, h, c)

    common.run_masked_or_plain(grid.plain(i, j, length, keep is not None, False), needed, block)

    @pl.when(j == pl.num_programs(3) - 1)
    def _() -> None:
        for h in range(grid.call.pack):
            rows = slice(h * grid.call.head, (h + 1) * grid.call.head)
            t = total[h : h + 1, :]
            some = t > 0
            share = jnp.where(some, 1.0 / jnp.where(some, t, 1.0), 0.0)
            acc[rows, :] = acc[rows, :] * (share if extras.gates is None else share * extras.gates[h])
            found = (top[h : h + 1, :] + jnp.log2(jnp.where(some, t, 1.0))) * LN2
            lse[h] = jnp.where(some, found, HIDDEN)
        out[...] = acc[...].T.astype(out.dtype)


def _scores(
    grid: Grid, q: tuple[Any, Any], k: Any, masks: tuple[Any, Any], at: tuple[Any, ...], masked: bool, h: int, c: int
) -> tuple[Array, Array | None]:
    """Scores (strip, bq) of strip c for head h, and which of its keys are seen (None: all).

    q: the block and, where prepared here, its turned head h. masks: keep and bias. at: (i, j, length).
    """
    (raw, turned), (keep, bias), (i, j, length) = q, masks, at
    keys = k[c * grid.strip : (c + 1) * grid.strip, :]
    s = dot(keys, common.of_head(grid.call, raw[...], h), NT) if turned is None else dot(keys, turned, NN)
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
