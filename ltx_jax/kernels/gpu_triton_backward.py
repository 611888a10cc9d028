"""The backward Triton kernels: one makes dk and dv of a block of keys, one makes dq of a block of queries.

p = exp2(s c - lse), dp = do v^T, ds = p (dp - delta) with delta = rowsum(do o) - dlse; dv = p^T do,
dk = scale ds^T q and dq = scale ds k. Both recompute the scores (seven products and two exp2 per pair instead of five
and one): a single kernel would have to sum dq by atomics, whose order, and so the result, changes from run to run.

At the default tiles for sm_80 and width 128 the main loops are 440 instructions with 128 HMMA and 16 exp2 (dk, dv) and
284 with 96 HMMA and 16 exp2 (dq): at 8 cycles an HMMA, tensor cores are the bound in both.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ltx_jax.kernels import gpu_triton_common as common
from ltx_jax.kernels.gpu_triton_common import Array, Call, dot
from ltx_jax.kernels.softmax import HIDDEN, LOG2E, NN, NT


def backward(
    call: Call, q: Array, k: Array, v: Array, lengths: Array, keep: Array | None, bias: Array | None,
    lse: Array, delta: Array, d_out: Array,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """dq, dk, dv in the shapes and dtypes of q, k, v. Arguments as in `gpu_triton_forward.forward`.

    lse: its second result; delta: rowsum(d_out out) - d_lse, both (B, N, T) float32. d_out: (B, T, N, K).
    """
    # Rows that saw nothing: a large lse makes every p zero.
    lse = jnp.where(lse <= HIDDEN / 2, -HIDDEN, lse * LOG2E)
    arguments = (lengths, keep, bias, q, k, v, d_out, lse, delta)
    dk, dv = _call_keys(call, *arguments)
    return _call_queries(call, *arguments), dk, dv


def _in_specs(call: Call, keep: Array | None, bias: Array | None) -> list[Any]:
    queries, keys = common.head_spec(call.queries, call.head), common.head_spec(call.keys, call.head)
    row = common.statistic_spec(call.queries)
    return [*common.mask_specs(call, keep, bias), queries, keys, keys, queries, row, row]


def _call_keys(call: Call, *arrays: Any) -> tuple[Array, Array]:
    blocks, (_, keep, bias, _, k, v, *_) = call.tile.backward_keys, arrays
    out = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)]
    spec = common.block_spec(blocks.keys, call.head)
    return pl.pallas_call(
        functools.partial(attention_backward_keys, call),
        grid=(pl.cdiv(call.keys, blocks.keys), call.heads, k.shape[0]),
        in_specs=_in_specs(call, keep, bias),
        out_specs=[spec, spec],
        out_shape=out,
        name="triton_attention_backward_keys",
        **common.options(call, blocks, k.shape[0], 4, [*arrays, *out]),
    )(*arrays)


def _call_queries(call: Call, *arrays: Any) -> Array:
    blocks, (_, keep, bias, q, *_) = call.tile.backward_queries, arrays
    out = jax.ShapeDtypeStruct(q.shape, q.dtype)
    return pl.pallas_call(
        functools.partial(attention_backward_queries, call),
        grid=(pl.cdiv(call.queries, blocks.queries), call.heads, q.shape[0]),
        in_specs=_in_specs(call, keep, bias),
        out_specs=common.block_spec(blocks.queries, call.head),
        out_shape=out,
        name="triton_attention_backward_queries",
        **common.options(call, blocks, q.shape[0], 3, [*arrays, out]),
    )(*arrays)


def attention_backward_keys(
    call: Call, lengths: Any, keep: Any, bias: Any, q: Any, k: Any, v: Any, d_out: Any, lse: Any, delta: Any,
    dk: Any, dv: Any,
) -> None:  # fmt: skip
    """dk, dv (bk, K) of one block of keys of one head; scores are held as (bk, bq).

    A key's gradients do not depend on other keys: hidden ones are zeroed at the end. Queries beyond the end come as
    zeros with a large lse, and count for nothing.
    """
    blocks, j = call.tile.backward_keys, pl.program_id(0)
    bq, bk, start = blocks.queries, blocks.keys, j * blocks.keys
    length = common.length_of(call, lengths)
    all_seen = not call.limited and keep is None and call.keys % bk == 0
    seen = None if all_seen else common.seen_keys(start, bk, length, keep)
    keys, values = common.rows(k, start, bk, seen), common.rows(v, start, bk, seen)

    def block(i: Array, carry: Any) -> Any:
        dk_sum, dv_sum = carry
        first = i * bq
        inside = common.below(first, bq, call.queries)
        queries, grads = common.rows(q, first, bq, inside), common.rows(d_out, first, bq, inside)
        row, shift = common.rows(lse, first, bq, inside, -HIDDEN), common.rows(delta, first, bq, inside)
        s, c = dot(call, keys, queries, NT), call.scale * LOG2E
        if bias is not None:
            s, c = common.add_bias(call, s.T, bias, first, start, blocks)
            s = s.T
        p = common.exp2(call, s, row[None, :], c, cap=True)
        if call.causal:
            p = jnp.where(common.near(call, first, start, blocks).T, p, 0.0)
        dv_sum += dot(call, p.astype(grads.dtype), grads, NN)
        ds = p * (dot(call, values, grads, NT) - shift[None, :])
        return dk_sum + dot(call, ds.astype(queries.dtype), queries, NN), dv_sum

    zeros = jnp.zeros((bk, call.head), jnp.float32)
    dk_sum, dv_sum = jax.lax.fori_loop(*common.query_range(call, blocks, j, length), block, (zeros, zeros))
    dk_sum = dk_sum * call.scale
    if seen is not None:
        dk_sum, dv_sum = (jnp.where(seen[:, None], x, 0.0) for x in (dk_sum, dv_sum))
    inside = common.below(start, bk, call.keys)
    mask = None if inside is None else inside[:, None]
    plgpu.store(dk, dk_sum.astype(dk.dtype), mask=mask)
    plgpu.store(dv, dv_sum.astype(dv.dtype), mask=mask)


def attention_backward_queries(
    call: Call, lengths: Any, keep: Any, bias: Any, q: Any, k: Any, v: Any, d_out: Any, lse: Any, delta: Any, dq: Any
) -> None:
    """dq (bq, K) of one block of queries of one head; scores are held as (bq, bk).

    Hidden keys and values come as zeros: with p at most 1 they add exactly nothing, so only causal calls mask scores.
    """
    blocks, i = call.tile.backward_queries, pl.program_id(0)
    bq, bk, start = blocks.queries, blocks.keys, i * blocks.queries
    length = common.length_of(call, lengths)
    all_seen = not call.limited and keep is None and call.keys % bk == 0
    inside = common.below(start, bq, call.queries)
    queries, grads = common.rows(q, start, bq, inside), common.rows(d_out, start, bq, inside)
    row, shift = common.rows(lse, start, bq, inside, -HIDDEN), common.rows(delta, start, bq, inside)

    def block(j: Array, dq_sum: Array) -> Array:
        seen = None if all_seen else common.seen_keys(j * bk, bk, length, keep)
        keys, values = common.rows(k, j * bk, bk, seen), common.rows(v, j * bk, bk, seen)
        s, c = common.add_bias(call, dot(call, queries, keys, NT), bias, start, j * bk, blocks)
        p = common.exp2(call, s, row[:, None], c, cap=True)
        if call.causal:
            p = jnp.where(common.near(call, start, j * bk, blocks), p, 0.0)
        ds = p * (dot(call, grads, values, NT) - shift[:, None])
        return dq_sum + dot(call, ds.astype(keys.dtype), keys, NN)

    ranges = common.key_ranges(call, blocks, i, length)
    dq_sum = jax.lax.fori_loop(ranges.first, ranges.last, block, jnp.zeros((bq, call.head), jnp.float32))
    mask = None if inside is None else inside[:, None]
    plgpu.store(dq, (dq_sum * call.scale).astype(dq.dtype), mask=mask)
