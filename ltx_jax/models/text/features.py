"""Hidden states of all layers to one feature vector per token and stream (spec transformer.md 12.1, 12.2).

x: (B, S, H, G), H the text model's width and G its layers + 1; mask: (B, S), 1 = real token, on either side.
Normalisation is float32 inside and returns x's dtype.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.models.layers import Array, Dtype, Linear

AXES = ("embed", "heads")  # input and output of the aggregating projections


def stack_states(states: Array) -> Array:
    """(G, B, S, H), as the text model gives them -> (B, S, H, G): the layer becomes the fastest axis."""
    return jnp.moveaxis(states, 0, -1)


def range_normalize(x: Array, mask: Array) -> Array:
    """V1: per sample and layer, 8 (x - mean) / (max - min) over all real tokens and channels; 0 at padding.

    The mean divides by (number of values + 1e-6), the range has 1e-6 added.
    """
    valid = (mask != 0)[:, :, None, None]  # (B, S, 1, 1)
    y = x.astype(jnp.float32)
    count = jnp.sum(valid, axis=(1, 2), keepdims=True) * x.shape[2] + 1e-6
    mean = jnp.sum(jnp.where(valid, y, 0.0), axis=(1, 2), keepdims=True) / count  # (B, 1, 1, G)
    largest = jnp.max(y, axis=(1, 2), keepdims=True, where=valid, initial=-jnp.inf)
    smallest = jnp.min(y, axis=(1, 2), keepdims=True, where=valid, initial=jnp.inf)
    return jnp.where(valid, 8 * (y - mean) / (largest - smallest + 1e-6), 0.0).astype(x.dtype)


def token_normalize(x: Array, mask: Array) -> Array:
    """V2: per token and layer, x / sqrt(mean over channels of x^2 + 1e-6); 0 at padding."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=2, keepdims=True) + 1e-6)
    return jnp.where((mask != 0)[:, :, None, None], y, 0.0).astype(x.dtype)


class FeatureExtractorV1(nn.Module):
    """Release 2.0: one projection without bias; its result serves both streams."""

    width: int
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> tuple[Array, Array]:
        """(B, S, H, G), (B, S) -> video and audio features, the same (B, S, width) twice."""
        flat = range_normalize(x, mask).reshape(*x.shape[:2], -1)  # (B, S, H*G)
        features = Linear(self.width, AXES, False, self.dtype, self.param_dtype, name="aggregate_embed")(flat)
        return features, features


class FeatureExtractorV2(nn.Module):
    """Releases 2.3 and 2.5: a projection with bias per stream, its input scaled by sqrt(width / H)."""

    video_width: int
    audio_width: int
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> tuple[Array, Array]:
        """(B, S, H, G), (B, S) -> video (B, S, video_width), audio (B, S, audio_width)."""
        flat = token_normalize(x, mask).reshape(*x.shape[:2], -1)  # (B, S, H*G)
        project = lambda width, name: Linear(width, AXES, True, self.dtype, self.param_dtype, name=name)(
            flat * jnp.asarray((width / x.shape[2]) ** 0.5, flat.dtype)
        )
        return project(self.video_width, "video_aggregate_embed"), project(self.audio_width, "audio_aggregate_embed")
