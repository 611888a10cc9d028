"""Exact attention on Hopper cards by our own Pallas (Mosaic GPU) kernels, forward and backward.

Heads of 64 or 128 columns in bfloat16 or float16; any lengths, T and S apart; key lengths and key masks. Additive bias,
causal and window masks are for the other implementations. Nothing is padded or transposed; memory is linear in the
length. See gpu_hopper_common.py for the layout, gpu_tiles.py for block sizes.
"""

from typing import Any

import jax.numpy as jnp

from ltx_jax.kernels.gpu_hopper_backward import backward
from ltx_jax.kernels.gpu_hopper_common import Array, Call
from ltx_jax.kernels.gpu_hopper_forward import forward
from ltx_jax.kernels.gpu_tiles import HOPPER_TILES, HopperTile, hopper_tile
from ltx_jax.kernels.reference import visible
from ltx_jax.kernels.softmax import LOG2E, differentiable, key_lengths, mismatch
from ltx_jax.kernels.spec import AttentionSpec, Mask

SUPPORTED = "head widths 64 and 128 in bfloat16 or float16, lengths and key masks, on compute capability 9.0"


def unsupported(q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec) -> str | None:
    """Why the kernels cannot take this call (shapes and dtypes alone are read), or None when they can."""
    reason = mismatch(q, k, v, (jnp.bfloat16, jnp.float16))
    if reason is not None:
        return reason
    if q.shape[3] not in HOPPER_TILES:
        return f"the head width is {q.shape[3]}"
    if spec.causal or mask.bias is not None:
        return "there is a causal mask" if spec.causal else "there is an additive bias"
    if spec.scale is not None and spec.scale <= 0:
        return f"the scale is {spec.scale}"
    return None


def hopper_attention(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, *, tile: HopperTile | None = None
) -> tuple[Array, Array]:
    """softmax(scale q k^T) v, (B, T, N, K) in q's dtype, and the log-sum-exp of each row's scaled scores, (B, N, T)
    float32, -1e30 where no key is seen. q: (B, T, N, K); k, v: (B, S, N, K).

    Both are differentiable in q, k, v, see `tpu.tpu_attention`. Softmax and sums in float32. A query whose keys are all
    hidden gives zeros and passes no gradient; hidden keys and values may hold anything, NaN included. tile: block
    sizes, by default `hopper_tile`'s. Raises NotImplementedError for what `unsupported` names.
    """
    return _attend(*_prepare(q, k, v, mask, spec, tile))


def hopper_backward(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, lse: Array, delta: Array, d_out: Array,
    *, tile: HopperTile | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """dq, dk, dv of rows whose log-sum-exp over all their keys, here or elsewhere, is lse: (B, N, T) float32.

    delta: rowsum(d_out out) minus the cotangent of lse, (B, N, T) float32. d_out: (B, T, N, K). Raises as
    `hopper_attention`.
    """
    call, q, k, v, lengths, keep = _prepare(q, k, v, mask, spec, tile)
    return _backward(call, q, k, v, lengths, keep, lse, delta, d_out)


def _prepare(q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, tile: HopperTile | None) -> tuple[Any, ...]:
    """The call's static half, and its arrays as the kernels take them: q, k, v, lengths, keep."""
    reason = unsupported(q, k, v, mask, spec)
    if reason is not None:
        raise NotImplementedError(f"The Hopper attention kernels take {SUPPORTED}; here {reason}.")
    (batch, queries, heads, width), keys = q.shape, k.shape[1]
    scale = width**-0.5 if spec.scale is None else spec.scale
    limited = mask.length is not None and mask.keep is None
    kept = mask.keep is not None
    call = Call(
        batch, queries, keys, heads, width, float(scale), limited, kept, tile or hopper_tile(width, kept), q.dtype
    )  # fmt: skip
    seen = visible(mask, spec, queries, keys)  # (B, 1, 1, S) or None
    if seen is not None:
        # A weight of zero times NaN is NaN: hidden keys and values are zeroed where XLA can fuse it into their making.
        there = seen[:, 0, 0, :, None, None]  # (B, S, 1, 1)
        k, v = jnp.where(there, k, 0), jnp.where(there, v, 0)
    lengths = key_lengths(mask, batch, keys) if limited else None
    keep = None
    if mask.keep is not None and seen is not None:
        keep = jnp.where(seen[:, 0, 0], 0.0, -jnp.inf).astype(jnp.float32)  # (B, S)
        keep = jnp.pad(keep, ((0, 0), (0, call.padded_keys - keys)), constant_values=-jnp.inf)
    return call, q, k, v, lengths, keep


def _forward(call: Call, *arrays: Any) -> tuple[Array, Array]:
    out, lse = forward(call, *arrays)
    return out, lse[:, :, : call.queries]


def _backward(
    call: Call, q: Array, k: Array, v: Array, lengths: Any, keep: Any, lse: Array, delta: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, call.padded - call.queries)))  # zeros: such queries give nothing
    return backward(call, q, k, v, d_out, (pad(lse * LOG2E), pad(delta)), lengths, keep)


_attend = differentiable(_forward, _backward)
