"""What every attention kernel shares, whichever device runs it: the softmax's conventions, and checks of inputs."""

import jax
import jax.numpy as jnp

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
