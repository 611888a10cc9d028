"""Attention written as its definition: the yardstick of every other implementation, and the choice at small sizes."""

import jax
import jax.numpy as jnp

from ltx_jax.kernels.spec import AttentionSpec, Mask

Array = jax.Array
LOWEST = jnp.finfo(jnp.float32).min


def visible(mask: Mask, spec: AttentionSpec, queries: int, keys: int) -> Array | None:
    """(B or 1, 1, T or 1, S) bool of the pairs that may attend, or None when all may."""
    parts = []
    if mask.length is not None:
        parts.append(jnp.arange(keys) < mask.length[:, None, None, None])
    if mask.keep is not None:
        parts.append(mask.keep[:, None, None, :])
    if spec.causal:
        ahead = jnp.arange(queries)[:, None] - jnp.arange(keys)[None, :]  # (T, S), >= 0 for the past
        seen = ahead >= 0 if spec.window is None else (ahead >= 0) & (ahead < spec.window)
        parts.append(seen[None, None])
    if not parts:
        return None
    result = parts[0]
    for part in parts[1:]:
        result = result & part
    return result


def reference_attention(q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec) -> Array:
    """softmax(scale q k^T + bias) v. q: (B, T, N, K); k, v: (B, S, N, K). Returns (B, T, N, K) in q's dtype.

    Scores and softmax in float32. A query whose keys are all hidden gives zeros (no NaN, no gradient).
    """
    scale = q.shape[-1] ** -0.5 if spec.scale is None else spec.scale
    scores = jnp.einsum("btnk,bsnk->bnts", q, k, preferred_element_type=jnp.float32) * scale
    if mask.bias is not None:
        scores = scores + mask.bias
    seen = visible(mask, spec, q.shape[1], k.shape[1])
    if seen is None:
        weights = jax.nn.softmax(scores, axis=-1)
    else:
        weights = jax.nn.softmax(jnp.where(seen, scores, LOWEST), axis=-1)
        weights = jnp.where(seen, weights, 0.0)
    return jnp.einsum("bnts,bsnk->btnk", weights.astype(v.dtype), v)
