"""Exact neighbourhood attention on TPU by our own Pallas (Mosaic) kernels, forward and backward.

Heads of 32, 64 or 128 columns, any grid and window whose visibility code fits (the released windows do). See
tpu_neighbourhood_common.py for the layout and the mask, tpu_neighbourhood_cut.py for block sizes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels.softmax import LOG2E
from ltx_jax.kernels.tiles import LANES
from ltx_jax.kernels.tpu_neighbourhood_backward import backward
from ltx_jax.kernels.tpu_neighbourhood_cut import Cut, Sizes
from ltx_jax.kernels.tpu_neighbourhood_forward import forward

Array = jax.Array
Interpret = bool | pltpu.InterpretParams


def unsupported(q: Any, window: Sizes, queries: int) -> str | None:
    """Why the kernel cannot take q: (B, T, H, W, N, K) (shape and dtype alone are read), or None when it can."""
    heads, width = q.shape[4:]
    if q.dtype not in (jnp.bfloat16, jnp.float32):
        return f"the dtype is {q.dtype}"
    if width not in (32, 64, LANES) or heads % (LANES // width):
        return f"there are {heads} heads of width {width}"
    if Cut.best(q.shape[1:4], window, width, queries) is None:
        return f"a window of {window} is too large for its code"
    return None


def tpu_neighbourhood_attention(
    q: Array, k: Array, v: Array, window: Sizes, scale: float, *, queries: int = LANES, interpret: Interpret = False
) -> Array:
    """softmax(scale q k^T) v over each query's window. q, k, v: (B, T, H, W, N, K). Returns q's shape and dtype.

    Softmax and sums in float32; bfloat16 inputs are multiplied as such, float32 ones in full precision. queries: of a
    block, see `queries_for`. interpret: run as plain JAX (True), or in Pallas's model of a TPU (InterpretParams), for
    tests. Raises NotImplementedError for what `unsupported` names.
    """
    reason = unsupported(q, window, queries)
    if reason is not None:
        raise NotImplementedError(f"The TPU kernels of neighbourhood attention do not take this: {reason}.")
    return _attend(window, scale, queries, interpret, q, k, v)


def _prepare(window: Sizes, scale: float, queries: int, q: Array, k: Array, v: Array) -> tuple[Cut, tuple[Array, ...]]:
    """The cut of a call, and its arrays as the kernels take them."""
    cut = Cut.best(q.shape[1:4], window, q.shape[-1], queries)
    assert cut is not None  # `unsupported` has asked
    # One pass that XLA fuses into whatever made q; it saves a multiplication per score.
    scaled = (q.astype(jnp.float32) * (scale * LOG2E)).astype(q.dtype)
    tail = cut.grid[2] - cut.columns
    padded = lambda x: jnp.pad(_flat(x), ((0, 0), (0, 0), (0, 0), (0, tail), (0, 0))) if tail else _flat(x)
    return cut, (_flat(scaled), padded(k), padded(v))


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:4], -1)  # (B, T, H, W, N * K)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _attend(window: Sizes, scale: float, queries: int, interpret: Interpret, q: Array, k: Array, v: Array) -> Array:
    cut, arrays = _prepare(window, scale, queries, q, k, v)
    return forward(cut, interpret, False, *arrays)[0].reshape(q.shape)


def _attend_forward(
    window: Sizes, scale: float, queries: int, interpret: Interpret, q: Array, k: Array, v: Array
) -> tuple[Array, Any]:
    cut, arrays = _prepare(window, scale, queries, q, k, v)
    out, lse = forward(cut, interpret, True, *arrays)
    return out.reshape(q.shape), (q, k, v, out, lse)


def _attend_backward(
    window: Sizes, scale: float, queries: int, interpret: Interpret, saved: Any, d_out: Array
) -> tuple[Array, Array, Array]:
    q, k, v, out, lse = saved
    cut, arrays = _prepare(window, scale, queries, q, k, v)
    dq, dk, dv = backward(cut, interpret, *arrays, out, lse, _flat(d_out))
    dq = (dq.astype(jnp.float32) * (scale * LOG2E)).astype(q.dtype)
    real = lambda x: x[:, :, :, : cut.columns].reshape(k.shape).astype(k.dtype)
    return dq.reshape(q.shape), real(dk), real(dv)


_attend.defvjp(_attend_forward, _attend_backward)
