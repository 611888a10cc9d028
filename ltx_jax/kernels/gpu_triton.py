"""Exact attention on CUDA cards by our own Pallas (Triton) kernels, forward and backward.

For Ampere and Ada, and wherever the Hopper kernels do not apply. Heads of 16, 32, 64 or 128 columns; any lengths, T
and S apart; key lengths, key masks, additive bias, causal and window masks. Memory is linear in the length, there are
no atomics. See gpu_triton_common.py for layout and units, gpu_triton_tiles.py for block sizes.
"""

from typing import Any

import jax.numpy as jnp

from ltx_jax.kernels.gpu_triton_backward import backward
from ltx_jax.kernels.gpu_triton_common import Array, Call
from ltx_jax.kernels.gpu_triton_forward import forward
from ltx_jax.kernels.gpu_triton_tiles import TritonTile, triton_tile
from ltx_jax.kernels.softmax import differentiable, key_lengths, mismatch
from ltx_jax.kernels.spec import AttentionSpec, Mask

WIDTHS = (16, 32, 64, 128)
SUPPORTED = f"head widths {', '.join(map(str, WIDTHS))} in bfloat16, float16 or float32"
GRID_LIMIT = 65535  # blocks along the second and third axis of a CUDA grid: heads and batch


def unsupported(q: Array, k: Array, v: Array) -> str | None:
    """Why the kernels cannot take these arrays (shapes and dtypes alone are read), or None when they can."""
    heads, width = q.shape[2:]
    reason = mismatch(q, k, v, (jnp.bfloat16, jnp.float16, jnp.float32))
    if reason is not None:
        return reason
    if width not in WIDTHS or max(heads, q.shape[0]) > GRID_LIMIT:
        return f"there are {heads} heads of width {width} and {q.shape[0]} samples"
    return None


def triton_attention(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec,
    *, tile: TritonTile | None = None, interpret: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    """softmax(scale q k^T + bias) v, (B, T, N, K) in q's dtype, and the log-sum-exp of each row's scores, (B, N, T)
    float32, -1e30 where no key is seen. q: (B, T, N, K); k, v: (B, S, N, K).

    Both are differentiable in q, k, v (not in the bias), see `tpu.tpu_attention`. Softmax and sums in float32; 16-bit
    inputs are multiplied as such, float32 ones in (nearly) full precision. A query whose keys are all hidden (by the
    mask, or a bias of -1e30 or less) gives zeros and passes no gradient; hidden keys and values may hold anything, NaN
    included. tile: block sizes, see `gpu_triton_tiles.triton_tile`. interpret: run as plain JAX, for tests. Raises
    NotImplementedError for what `unsupported` names.
    """
    call, arrays = _prepare(q, k, v, mask, spec, tile, interpret)
    return _attend(call, *arrays)


def triton_backward(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, lse: Array, delta: Array, d_out: Array,
    *, tile: TritonTile | None = None, interpret: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """dq, dk, dv of rows whose log-sum-exp over all their keys, here or elsewhere, is lse: (B, N, T) float32.

    delta: rowsum(d_out out) minus the cotangent of lse, (B, N, T) float32. d_out: (B, T, N, K). Raises as
    `triton_attention`.
    """
    call, arrays = _prepare(q, k, v, mask, spec, tile, interpret)
    dq, dk, dv = backward(call, *arrays, lse, delta, d_out)
    return -dq if _negative(spec) else dq, dk, dv


def _negative(spec: AttentionSpec) -> bool:
    return spec.scale is not None and spec.scale < 0


def _prepare(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, tile: TritonTile | None, interpret: bool
) -> tuple[Call, tuple[Any, ...]]:
    """The call's static half, and its arrays as the kernels take them."""
    reason = unsupported(q, k, v)
    if reason is not None:
        raise NotImplementedError(f"The Triton attention kernels take {SUPPORTED}; here {reason}.")
    (batch, queries, heads, width), keys = q.shape, k.shape[1]
    scale = width**-0.5 if spec.scale is None else abs(float(spec.scale))
    if _negative(spec):  # the kernels take the maximum before they multiply
        q = -q
    lengths = key_lengths(mask, batch, keys)
    keep = None if mask.keep is None else mask.keep.astype(jnp.int8)  # (B, S)
    call = Call(
        queries, keys, heads, width, scale, spec.causal, spec.window if spec.causal else None,
        mask.length is not None, tile or triton_tile("", width, q.dtype), interpret,
    )  # fmt: skip
    return call, (q, k, v, lengths, keep, mask.bias)


_attend = differentiable(forward, backward)
