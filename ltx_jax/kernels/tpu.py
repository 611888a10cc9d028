"""Exact attention on TPU by our own Pallas (Mosaic) kernels, forward and backward.

Heads of 32, 64 or a multiple of 128 columns; any lengths, T and S apart; key lengths, key masks, additive bias, causal
and window masks. Memory is linear in the length. See tpu_common.py for the layout, tiles.py for block sizes.
"""

from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels.prologue import Side
from ltx_jax.kernels.softmax import LOG2E, differentiable, key_lengths, mismatch
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import DEFAULT, LANES, Tile
from ltx_jax.kernels.tpu_backward import backward
from ltx_jax.kernels.tpu_common import Array, Call
from ltx_jax.kernels.tpu_forward import forward, forward_grid
from ltx_jax.kernels.tpu_prepare import prepare_tiles
from ltx_jax.kernels.tpu_prologue import Extras, keys_fit, side_inputs

Interpret = bool | pltpu.InterpretParams
SUPPORTED = (
    "head widths 32 and 64 (with a number of heads that fills 128 columns) and multiples of 128, in bfloat16 or float32"
)


def unsupported(q: Array, k: Array, v: Array) -> str | None:
    """Why the kernels cannot take these arrays (shapes and dtypes alone are read), or None when they can."""
    heads, width = q.shape[2:]
    reason = mismatch(q, k, v, (jnp.bfloat16, jnp.float32))
    if reason is not None:
        return reason
    if width % LANES and (width not in (32, 64) or heads % (LANES // width)):
        return f"there are {heads} heads of width {width}"
    return None


def tpu_attention(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec,
    *, tile: Tile | None = None, interpret: Interpret = False,
) -> tuple[Array, Array]:  # fmt: skip
    """softmax(scale q k^T + bias) v, (B, T, N, K) in q's dtype, and the log-sum-exp of each row's scores, (B, N, T)
    float32, -1e30 where no key is seen. q: (B, T, N, K); k, v: (B, S, N, K).

    Both are differentiable in q, k, v (not in the bias), so results over parts of the keys can be merged: with weights
    softmax(lse) over the parts, the whole output is their weighted sum. Softmax and sums in float32; bfloat16 inputs
    are multiplied as such, float32 ones in full precision. A query whose keys are all hidden (by the mask, or a bias of
    -1e30 or less) gives zeros and passes no gradient; hidden keys and values may hold anything, NaN included. tile:
    block sizes, see `tiles.tile_for`. interpret: run as plain JAX (True), or in Pallas's model of a TPU
    (InterpretParams), for tests. Raises NotImplementedError for what `unsupported` names.
    """
    call, arrays = _prepare(q, k, v, mask, spec, tile, interpret)
    return _attend(call, *arrays)


def tpu_forward_with_prologue(
    q: Array, k: Array, v: Array, sides: tuple[Side, Side], gates: Array | None, mask: Mask, spec: AttentionSpec,
    *, tile: Tile | None = None, interpret: Interpret = False,
) -> tuple[Array, Array]:  # fmt: skip
    """As `tpu_attention` of `prologue.prepare`d q and k, and the output times gates, (B, T, N).

    q, k: raw; sides: what prepares each, with split rotation. Not differentiable, not for causal calls. Keys of a head
    that do not fit in VMEM (`Tile.resident` bytes) are prepared outside the kernel.
    """
    if spec.causal:
        raise NotImplementedError("The TPU attention kernel prepares no queries and keys of causal attention.")
    call, (flat_q, flat_k, flat_v, *masks) = _prepare(q, k, v, mask, spec, tile, interpret, prescale=False)
    extras = Extras(side_inputs(sides[0], _scale(q, spec) * LOG2E))
    if keys_fit(forward_grid(call), k.dtype.itemsize):
        extras = extras._replace(k=side_inputs(sides[1]))
    else:
        flat_k = prepare_tiles(k, sides[1], tile=tile, interpret=interpret).reshape(flat_k.shape)
    if gates is not None:
        extras = extras._replace(gates=gates.astype(jnp.float32).transpose(0, 2, 1)[:, :, None])  # (B, N, 1, T)
    return _forward(call, flat_q, flat_k, flat_v, *masks, extras)


def tpu_backward(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, lse: Array, delta: Array, d_out: Array,
    *, tile: Tile | None = None, interpret: Interpret = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """dq, dk, dv of rows whose log-sum-exp over all their keys, here or elsewhere, is lse: (B, N, T) float32.

    delta: rowsum(d_out out) minus the cotangent of lse, (B, N, T) float32. d_out: (B, T, N, K). Raises as
    `tpu_attention`.
    """
    call, arrays = _prepare(q, k, v, mask, spec, tile, interpret)
    dq, dk, dv = _backward(call, *arrays, lse, delta, d_out)
    dq = (dq.astype(jnp.float32) * (_scale(q, spec) * LOG2E)).astype(q.dtype)
    return dq.reshape(q.shape), dk.reshape(k.shape), dv.reshape(v.shape)


def _scale(q: Array, spec: AttentionSpec) -> float:
    return q.shape[-1] ** -0.5 if spec.scale is None else spec.scale


def _prepare(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, tile: Tile | None, interpret: Interpret,
    *, prescale: bool = True,
) -> tuple[Call, tuple[Any, ...]]:  # fmt: skip
    """The call's static half, and its arrays as the kernels take them; prescale: scale and log2(e) go into q here."""
    reason = unsupported(q, k, v)
    if reason is not None:
        raise NotImplementedError(f"The TPU attention kernels take {SUPPORTED}; here {reason}.")
    (batch, queries, heads, width), keys = q.shape, k.shape[1]
    if prescale:  # one pass that XLA fuses into whatever made q; it saves a multiplication per score in both kernels
        q = (q.astype(jnp.float32) * (_scale(q, spec) * LOG2E)).astype(q.dtype)
    flat = lambda x: x.reshape(*x.shape[:2], heads * width)  # (B, T, N * K)
    lengths = key_lengths(mask, batch, keys)
    keep = None if mask.keep is None else mask.keep.astype(jnp.float32)[:, None, :]  # (B, 1, S)
    window = spec.window if spec.causal else None
    call = Call(queries, keys, heads, width, spec.causal, window, mask.length is not None, tile or DEFAULT, interpret)
    return call, (flat(q), flat(k), flat(v), lengths, keep, mask.bias)


def _forward(call: Call, *arrays: Any) -> tuple[Array, Array]:
    out, lse = forward(call, *arrays)
    return out.reshape(*out.shape[:2], call.heads, call.head), lse[:, :, 0]


def _backward(call: Call, q: Array, *more: Any) -> tuple[Array, ...]:
    *arrays, lse, delta, d_out = more
    return backward(call, q, *arrays, lse[:, :, None], delta[:, :, None], d_out.reshape(q.shape))


_attend = differentiable(_forward, _backward)
