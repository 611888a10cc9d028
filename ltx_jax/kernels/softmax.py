"""What every attention kernel shares, whichever device runs it: the softmax's conventions, and checks of inputs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ltx_jax.kernels.spec import Mask

Array = jax.Array

HIDDEN = -1e30  # the score of a hidden pair, finite so that nothing becomes NaN; the log-sum-exp of a row without keys
FLOOR = -5e29  # the least row maximum: exp2(HIDDEN - FLOOR) is 0, so a row that sees nothing sums to 0 without a branch
LN2 = 0.6931471805599453
LOG2E = 1.4426950408889634

# dimension numbers of `dot_general`
NT = (((1,), (1,)), ((), ()))  # a b^T
NN = (((1,), (0,)), ((), ()))  # a b


def mismatch(q: Array, k: Array, v: Array, dtypes: tuple) -> str | None:
    """Why q: (B, T, N, K) and k, v: (B, S, N, K) are no attention in one of `dtypes`, or None. No value is read."""
    if k.shape != v.shape or k.shape[2:] != q.shape[2:] or k.shape[0] != q.shape[0]:
        return f"q {q.shape}, k {k.shape}, v {v.shape} differ in batch, heads or width"
    if min(q.shape[1], k.shape[1]) == 0:
        return "there are no queries or no keys"
    if q.dtype not in dtypes or not q.dtype == k.dtype == v.dtype:
        return f"the dtypes are {q.dtype}, {k.dtype}, {v.dtype}"
    return None


def key_lengths(mask: Mask, batch: int, keys: int) -> Array:
    """Keys of every sample that are not padding, (B,) int32, at most `keys`."""
    if mask.length is None:
        return jnp.full((batch,), keys, jnp.int32)
    return jnp.clip(mask.length.astype(jnp.int32), 0, keys)


def row_products(out: Array, d_out: Array) -> Array:
    """rowsum(d_out out), (B, N, T) float32, of the whole rows' outputs (B, T, N, K)."""
    return jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1).transpose(0, 2, 1)


def differentiable(forward: Callable[..., tuple[Array, Array]], backward: Callable[..., tuple[Array, ...]]) -> Callable:
    """The function forward(call, *arrays) -> (out, lse) with the gradients that `backward` makes.

    call: static and hashable; arrays: q, k, v and the parts of a mask, which get no gradient. out: (B, T, N, K); lse,
    the log-sum-exp of each row's scores, (B, N, T) float32. backward(call, *arrays, lse, delta, d_out) -> dq, dk, dv;
    delta: `row_products` minus the cotangent of lse. A remat policy that keeps what is named "attended" runs no kernel
    twice.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def attend(call: Any, *arrays: Any) -> tuple[Array, Array]:
        return forward(call, *arrays)

    def attend_forward(call: Any, *arrays: Any) -> Any:
        out, lse = (checkpoint_name(x, "attended") for x in forward(call, *arrays))
        return (out, lse), (arrays, out, lse)

    def attend_backward(call: Any, saved: Any, cotangents: tuple[Array, Array]) -> tuple[Any, ...]:
        (arrays, out, lse), (d_out, d_lse) = saved, cotangents
        gradients = backward(call, *arrays, lse, row_products(out, d_out) - d_lse, d_out)
        return (*gradients, *(None for _ in arrays[3:]))

    attend.defvjp(attend_forward, attend_backward)
    return attend
