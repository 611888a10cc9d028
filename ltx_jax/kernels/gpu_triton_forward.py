"""The forward Triton kernel: softmax(scale q k^T + bias) v and its log-sum-exp, by online softmax over key blocks.

One program holds a block of queries and walks the keys that it sees: first those that need masks at the near edge of a
window, then all blocks without masks, then the ragged end. Per score: a maximum, a multiply-add, one exp2, a sum and
half a conversion; per block one rescale of the accumulator.

At the default tile for sm_80 and width 128 the main loop is 311 instructions for 16 scores a thread: 64 HMMA, 40 LDSM,
18 exp2, 16 FFMA, 68 FMUL (64 of them the rescale). The tensor cores need 512 cycles of a warp for that, the other
instructions 247: with full overlap they are the bound, with none 67% of the peak is left.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ltx_jax.kernels import gpu_triton_common as common
from ltx_jax.kernels.gpu_triton_common import Array, Call, dot
from ltx_jax.kernels.softmax import FLOOR, HIDDEN, LN2, NN, NT


def forward(
    call: Call, q: Array, k: Array, v: Array, lengths: Array, keep: Array | None, bias: Array | None
) -> tuple[Array, Array]:
    """Output (B, T, N, K) in q's dtype and log-sum-exp (B, N, T), float32, natural logarithm.

    q: (B, T, N, K); k, v: (B, S, N, K); lengths: (B,) int32, at most S; keep: (B, S) int8, 0 hides; bias: (B or 1,
    N or 1, T or 1, S). A row that sees no key gives zeros and HIDDEN.
    """
    blocks, batch = call.tile.forward, q.shape[0]
    if bias is not None:  # it takes registers beside the scores
        blocks = dataclasses.replace(blocks, warps=8)
    out = (jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((batch, call.heads, call.queries), jnp.float32))
    queries, keys = common.head_spec(call.queries, call.head), common.head_spec(call.keys, call.head)
    return pl.pallas_call(
        functools.partial(attention_forward, call),
        grid=(pl.cdiv(call.queries, blocks.queries), call.heads, batch),
        in_specs=[*common.mask_specs(call, keep, bias), queries, keys, keys],
        out_specs=[
            common.block_spec(blocks.queries, call.head),
            pl.BlockSpec((None, None, blocks.queries), lambda i, h, b: (b, h, i)),
        ],
        out_shape=out,
        name="triton_attention_forward",
        **common.options(call, blocks, batch, 2, [q, k, v, keep, bias, *out]),
    )(lengths, keep, bias, q, k, v)


def attention_forward(
    call: Call, lengths: Any, keep: Any, bias: Any, q: Any, k: Any, v: Any, out: Any, lse: Any
) -> None:
    """One block of queries of one head against all the keys it sees. Refs: q (T, K), k, v (S, K), out (bq, K)."""
    blocks, i = call.tile.forward, pl.program_id(0)
    bq, bk, start = blocks.queries, blocks.keys, i * blocks.queries
    length = common.length_of(call, lengths)
    inside = common.below(start, bq, call.queries)
    queries = common.rows(q, start, bq, inside)

    def block(masked: bool, j: Array, carry: Any) -> Any:
        acc, top, total = carry
        seen = common.seen_keys(j * bk, bk, length, keep) if masked else None
        products = dot(call, queries, common.rows(k, j * bk, bk, seen), NT)
        s, c = common.add_bias(call, products, bias, start, j * bk, blocks)
        if seen is not None:
            visible = jnp.broadcast_to(seen[None, :], s.shape)
            if call.causal:
                visible &= common.near(call, start, j * bk, blocks)
            s, c = jnp.where(visible, s * c, HIDDEN), 1.0
        now = jnp.maximum(top, jnp.max(s, axis=1) * c)
        p = common.exp2(call, s, now[:, None], c)
        shrink = common.exp2(call, top - now)
        values = common.rows(v, j * bk, bk, seen)
        acc = acc * shrink[:, None] + dot(call, p.astype(values.dtype), values, NN)
        return acc, now, total * shrink + jnp.sum(p, axis=1)

    def walk(masked: bool, first: Any, last: Any, carry: Any) -> Any:
        return jax.lax.fori_loop(first, last, functools.partial(block, masked), carry)

    fill = lambda value: jnp.full((bq,), value, jnp.float32)
    carry: Any = (jnp.zeros((bq, call.head), jnp.float32), fill(FLOOR), fill(0.0))
    ranges = common.key_ranges(call, blocks, i, length)
    if keep is not None or q.dtype == jnp.float32:  # float32 has no registers left for a second loop
        carry = walk(True, ranges.first, ranges.last, carry)
    else:
        if call.window is not None:
            carry = walk(True, ranges.first, ranges.plain, carry)
        carry = walk(False, ranges.plain, ranges.rest, carry)
        if call.limited or call.causal or call.keys % bk:
            carry = walk(True, ranges.rest, ranges.last, carry)
    acc, top, total = carry
    some = total > 0
    safe = jnp.where(some, total, 1.0)
    acc = acc * jnp.where(some, 1.0 / safe, 0.0)[:, None]
    plgpu.store(out, acc.astype(out.dtype), mask=None if inside is None else inside[:, None])
    plgpu.store(lse, jnp.where(some, top * LN2 + jnp.log(safe), HIDDEN), mask=inside)
