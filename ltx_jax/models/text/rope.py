"""Rotary positions of the Gemma decoders, by halves: the pairs are (j, j + K/2) (spec gemma.md sections 3 and 4)."""

import jax.numpy as jnp
import numpy as np

from ltx_jax.models.layers import Array

Tables = tuple[Array, Array]


def inverse_frequencies(head_dim: int, theta: float, factor: float = 1.0, share: float = 1.0) -> np.ndarray:
    """float32 (K/2,): theta^(-2j/K) / factor, radians per position of the rotary pairs.

    share: of the pairs that turn; the others have 0 (Gemma 4's "proportional" kind, whose exponent keeps the whole K).
    """
    frequencies = (theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim) / factor).astype(np.float32)
    frequencies[int(share * head_dim // 2) :] = 0
    return frequencies


def tables(positions: np.ndarray, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, float32 (..., S, K/2), of positions (S,) and frequencies (..., K/2).

    Made on the host: the angle is a float32 product, its cosine accurate.
    """
    angle = positions.astype(np.float32)[:, None] * frequencies[..., None, :]
    return np.cos(angle.astype(np.float64)).astype(np.float32), np.sin(angle.astype(np.float64)).astype(np.float32)


def rotate_half(x: Array, tables: Tables) -> Array:
    """Rotate the pairs (j, j + K/2) of x (B, S, N, K) by cos, sin (S, K/2) or (B, S, K/2), in x's dtype."""
    cos, sin = (t.astype(x.dtype)[..., None, :] for t in tables)  # (S, 1, K/2) or (B, S, 1, K/2)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
