"""Modulation by the noise level: timestep embedding, AdaLN-single, and rows per token (spec transformer.md 4.2, 4.3).

Everything is computed per distinct noise level, in float32, and spread over the tokens only where it is used: per
token the modulation of a long video would be larger than the model. Letters beyond the usual: U distinct levels,
M modulation rows.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.models.layers import Array, Dtype, Linear, rms_norm
from ltx_jax.parallel.rules import constrain

HALF = 128  # frequencies of the sinusoid
SELECT_LEVELS = 8  # up to so many levels are selected (elementwise, fuses), more are gathered


def _timestep_frequencies() -> np.ndarray:
    """(128,) float32. The exponent is rounded to float32 before the exponential, which is rounded once."""
    exponent = np.float32(-np.log(10000.0)) * np.arange(HALF, dtype=np.float32) / np.float32(HALF)
    return np.exp(exponent.astype(np.float64)).astype(np.float32)


FREQUENCIES = _timestep_frequencies()


def timestep_embedding(t: Array) -> Array:
    """Sinusoid of t (already multiplied, up to 1000): (...) -> (..., 256) float32, cosines first."""
    angle = t.astype(jnp.float32)[..., None] * FREQUENCIES
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class AdaLN(nn.Module):
    """AdaLN-single: noise levels to `rows` modulation rows of width D. Computes in float32 whatever the model does."""

    width: int
    rows: int
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, t: Array) -> tuple[Array, Array]:
        """t: (B, U) multiplied levels. Returns rows (B, U, M, D) and the embedded timestep (B, U, D), float32."""
        small = nn.initializers.normal(0.02)  # a young model modulates gently

        def linear(name: str, features: int, axes: tuple[str, str], x: Array, **init) -> Array:
            return Linear(features, axes, True, jnp.float32, self.param_dtype, name=name, **init)(x)

        hidden = linear("linear_1", self.width, ("embed", "mlp"), timestep_embedding(t))
        embedded = linear("linear_2", self.width, ("mlp", "embed"), jax.nn.silu(hidden))
        rows = linear("linear", self.rows * self.width, ("embed", "mlp"), jax.nn.silu(embedded), kernel_init=small)
        rows = rows.reshape(*t.shape, self.rows, self.width)  # (B, U, M, D)
        return (
            constrain(rows, "batch", None, None, "act_embed"),
            constrain(embedded, "batch", None, "act_embed"),
        )


def per_token(rows: Array, index: Array | None) -> Array:
    """Rows of the tokens' levels: (B, U, D), (B, T) -> (B, T, D); without an index all share one: (B, 1, D)."""
    if index is None or rows.shape[1] == 1:
        return rows[:, :1]
    if rows.shape[1] > SELECT_LEVELS:
        return jnp.take_along_axis(rows, index[..., None], axis=1)
    spread = rows[:, :1]
    for level in range(1, rows.shape[1]):
        spread = jnp.where(index[..., None] == level, rows[:, level : level + 1], spread)
    return spread


def modulate(x: Array, scale: Array, shift: Array) -> Array:
    """x * (1 + scale) + shift in float32, x's dtype out; scale and shift broadcast over x."""
    return (x.astype(jnp.float32) * (1 + scale) + shift).astype(x.dtype)


def normed(x: Array, scale: Array, shift: Array, eps: float) -> Array:
    """rms(x) * (1 + scale) + shift in float32, x's dtype out (spec section 7)."""
    return modulate(rms_norm(x.astype(jnp.float32), eps=eps), scale, shift).astype(x.dtype)


def add_gated(x: Array, residual: Array, gate: Array) -> Array:
    """x + gate * residual in float32, x's dtype out."""
    return (x.astype(jnp.float32) + gate * residual.astype(jnp.float32)).astype(x.dtype)
