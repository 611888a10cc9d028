"""The backward TPU kernels (FlashAttention's recurrences, scores transposed as in the forward one).

p = exp2(s - lse), dp = v do^T, ds = p (dp - delta) with delta = rowsum(do o) - dlse; dv = p do, dk = ds q and
dq^T = k^T ds, where p and ds are (keys, queries). One kernel makes all three while the query gradient of a whole head
fits in VMEM (five products and one exp2 per pair); beyond that a second kernel recomputes the scores for dq (seven and
two). No atomics: sums run in block order, so the result is the same every time. The compiler schedules a 512 x 512 tile
of width 128, all three gradients, in 2,280 bundles on v5e and 1,130 on v6e, both bound by the matrix units.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels import tpu_common as common
from ltx_jax.kernels.softmax import HIDDEN, LN2, LOG2E, NN, NT
from ltx_jax.kernels.tpu_common import Array, Call, Grid, dot


def backward(
    call: Call, q: Array, k: Array, v: Array, lengths: Array, keep: Array | None, bias: Array | None,
    lse: Array, delta: Array, d_out: Array,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """dq, dk, dv in the shapes and dtypes of q, k, v. Arguments as in `tpu_forward.forward`.

    lse: its second result; delta: rowsum(d_out out) - d_lse, both (B, N, 1, T) float32. d_out: (B, T, N * K).
    """
    # Rows that saw nothing: a large lse makes every p zero.
    lse = jnp.where(lse <= HIDDEN / 2, -HIDDEN, lse * LOG2E)
    grid = Grid.make(call, call.tile.backward_queries, call.tile.backward_keys, "ji")
    resident = grid.query_blocks * grid.bq * call.width * 4 <= call.tile.resident
    arguments = (lengths, q, k, v, keep, bias, d_out, lse, delta)
    if resident:
        dq, dk, dv = _call_keys(grid, True, *arguments)
        return dq, dk, dv
    dk, dv = _call_keys(grid, False, *arguments)
    return _call_queries(Grid.make(call, grid.bq, grid.bk, "ij"), *arguments), dk, dv


def _in_specs(grid: Grid, keep: Array | None, bias: Array | None) -> list[Any]:
    queries, keys, row = common.token_spec(grid, "i"), common.token_spec(grid, "j"), common.row_spec(grid)
    return [queries, keys, keys, *common.mask_specs(grid, keep, bias), queries, row, row]


def _call_keys(grid: Grid, resident: bool, lengths: Array, *arrays: Any) -> tuple[Array, ...]:
    """dk and dv, walking the queries innermost; with `resident`, dq first."""
    call, (q, k, v, keep, bias, *_) = grid.call, arrays
    batch, last = q.shape[0], grid.key_blocks - 1
    key_sum = pltpu.VMEM((grid.bk, call.width), jnp.float32)
    keys = pl.BlockSpec((None, grid.bk, call.width), lambda *a: (a[0], a[2], a[1]))
    # dq leaves only during the last block of keys: until then its block stays the first one and is not written back.
    queries = pl.BlockSpec((None, grid.bq, call.width), lambda *a: (a[0], jnp.where(a[2] == last, a[3], 0), a[1]))
    out = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in ((q, k, v) if resident else (k, v))]
    whole = pltpu.VMEM((grid.query_blocks, call.width, grid.bq), jnp.float32)
    semantics = ("parallel", "parallel", "arbitrary" if resident else "parallel", "arbitrary")
    return pl.pallas_call(
        functools.partial(_keys_kernel, grid, resident),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid.shape(batch),
            in_specs=_in_specs(grid, keep, bias),
            out_specs=[queries, keys, keys] if resident else [keys, keys],
            scratch_shapes=[key_sum, key_sum, *([whole] if resident else [])],
        ),
        out_shape=out,
        cost_estimate=common.cost(call, batch, 5 if resident else 4, 1, [*arrays, *out]),
        name="tpu_attention_backward" if resident else "tpu_attention_backward_keys",
        **common.compile_options(call, semantics),
    )(lengths, *arrays)


def _call_queries(grid: Grid, lengths: Array, *arrays: Any) -> Array:
    """dq, walking the keys innermost."""
    call, (q, _, _, keep, bias, *_) = grid.call, arrays
    out = jax.ShapeDtypeStruct(q.shape, q.dtype)
    return pl.pallas_call(
        functools.partial(_queries_kernel, grid),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid.shape(q.shape[0]),
            in_specs=_in_specs(grid, keep, bias),
            out_specs=common.token_spec(grid, "i"),
            scratch_shapes=[pltpu.VMEM((call.width, grid.bq), jnp.float32)],
        ),
        out_shape=out,
        cost_estimate=common.cost(call, q.shape[0], 3, 1, [*arrays, out]),
        name="tpu_attention_backward_queries",
        **common.compile_options(call, ("parallel", "parallel", "parallel", "arbitrary")),
    )(lengths, *arrays)


def _keys_kernel(grid: Grid, resident: bool, lengths: Any, *refs: Any) -> None:
    """One block of queries (innermost) against one block of keys: adds to dk, dv and, with `resident`, to dq."""
    inputs, rest = refs[:8], list(refs[8:])
    dq: Any = rest.pop(0) if resident else None
    dk, dv, dk_sum, dv_sum = rest[:4]
    dq_sum: Any = rest[4] if resident else None
    j, i, length = pl.program_id(2), pl.program_id(3), lengths[pl.program_id(0)]

    @pl.when(i == 0)
    def _() -> None:
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    if resident:

        @pl.when(j == 0)
        def _() -> None:
            dq_sum[i] = jnp.zeros(dq_sum.shape[1:], jnp.float32)

    def block(masked: bool) -> None:
        for h in range(grid.call.pack):
            head = _load_head(grid, inputs, i, h, masked)
            for c in range(grid.bk // grid.strip):
                rows = slice(c * grid.strip, (c + 1) * grid.strip)
                p, ds, keys = _pair(grid, inputs, head, i, j, length, masked, h, c)
                dv_sum[rows, :] += dot(p.astype(head[1].dtype), head[1], NN)
                dk_sum[rows, :] += dot(ds, head[0], NN)
                if resident:
                    _add_queries(grid, dq_sum.at[i], keys, ds, h)

    plain = grid.plain(i, j, length, inputs[3] is not None, True)
    common.run_masked_or_plain(plain, grid.needed(i, j, length), block)

    @pl.when(i == pl.num_programs(3) - 1)
    def _() -> None:
        dk[...] = (dk_sum[...] * LN2).astype(dk.dtype)
        dv[...] = dv_sum[...].astype(dv.dtype)

    if resident:

        @pl.when(j == pl.num_programs(2) - 1)
        def _() -> None:
            dq[...] = (dq_sum[i] * LN2).T.astype(dq.dtype)


def _queries_kernel(grid: Grid, lengths: Any, *refs: Any) -> None:
    """One block of keys (innermost) against one block of queries: adds to dq. dq_sum: (width, bq)."""
    inputs, (dq, dq_sum) = refs[:8], refs[8:]
    i, j, length = pl.program_id(2), pl.program_id(3), lengths[pl.program_id(0)]

    @pl.when(j == 0)
    def _() -> None:
        dq_sum[...] = jnp.zeros_like(dq_sum)

    def block(masked: bool) -> None:
        for h in range(grid.call.pack):
            head = _load_head(grid, inputs, i, h, masked)
            for c in range(grid.bk // grid.strip):
                _, ds, keys = _pair(grid, inputs, head, i, j, length, masked, h, c)
                _add_queries(grid, dq_sum, keys, ds, h)

    plain = grid.plain(i, j, length, inputs[3] is not None, True)
    common.run_masked_or_plain(plain, grid.needed(i, j, length), block)

    @pl.when(j == pl.num_programs(3) - 1)
    def _() -> None:
        dq[...] = (dq_sum[...] * LN2).T.astype(dq.dtype)


def _load_head(grid: Grid, inputs: Any, i: Array, h: int, masked: bool) -> tuple[Array, Array, Array, Array]:
    """q, do (bq, width), lse, delta (1, bq) of head h; queries beyond the end become zeros that see nothing."""
    q, _, _, _, _, d_out, lse, delta = inputs
    queries, grads, lse, delta = q[...], d_out[...], lse[h], delta[h]
    if masked and grid.call.queries % grid.bq:
        left = grid.call.queries - i * grid.bq
        rows = jax.lax.broadcasted_iota(jnp.int32, (grid.bq, common.LANES), 0)
        inside = jnp.where(rows < left, 1.0, 0.0)
        queries, grads = common.zero_rows(queries, inside), common.zero_rows(grads, inside)
        here = jax.lax.broadcasted_iota(jnp.int32, lse.shape, 1) < left
        lse, delta = jnp.where(here, lse, -HIDDEN), jnp.where(here, delta, 0.0)
    return common.of_head(grid.call, queries, h), common.of_head(grid.call, grads, h), lse, delta


def _pair(
    grid: Grid, inputs: Any, head: Any, i: Array, j: Array, length: Array, masked: bool, h: int, c: int
) -> tuple[Array, Array, Array]:
    """p (float32) and ds (input dtype), both (strip, bq), and the strip's keys, of head h."""
    _, k, v, keep, bias, *_ = inputs
    queries, grads, lse, delta = head
    rows = slice(c * grid.strip, (c + 1) * grid.strip)
    keys, values = k[rows, :], v[rows, :]
    seen = None
    if masked:
        seen = common.seen_keys(grid, j, c, length, keep)
        keys, values = common.zero_rows(keys, seen), common.zero_rows(values, seen)
    s = common.add_bias(grid, dot(keys, queries, NT), bias, h, c)
    if seen is not None:
        s = common.hide(grid, s, i, j, c, seen, grid.call.queries % grid.bq > 0)
    p = jnp.exp2(s - lse)
    ds = p * (dot(values, grads, NT) - delta)
    return p, ds.astype(keys.dtype), keys


def _add_queries(grid: Grid, dq_sum: Any, keys: Array, ds: Array, h: int) -> None:
    """Adds k^T ds to rows of head h of dq_sum (width, bq)."""
    rows = slice(h * grid.call.head, (h + 1) * grid.call.head)
    dq_sum[rows, :] += dot(keys.T[rows, :], ds, NN)
