"""Small pieces of the video VAE: patches, norms, the timestep embedder, and what all blocks are told (section 3)."""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.errors import require
from ltx_jax.models.layers import Linear, partitioned, rms_norm
from ltx_jax.models.video_vae.config import Padding
from ltx_jax.models.video_vae.conv import CausalConv3d, ConvImpl
from ltx_jax.parallel.rules import constrain

Array = jax.Array
Stride = tuple[int, int, int]

PIXEL_NORM_EPS = 1e-8
GROUP_NORM_EPS = 1e-6
TIMESTEP_FREQUENCIES = 128


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every block of one network shares; `timestep`: whether its residual blocks are timestep-conditioned."""

    padding: Padding = "zeros"
    causal: bool = True
    norm_layer: Literal["pixel_norm", "group_norm"] = "pixel_norm"
    groups: int = 32
    timestep: bool = False
    conv_impl: ConvImpl = "native"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def conv(self, name: str, features: int, stride: Stride = (1, 1, 1), size: int = 3) -> CausalConv3d:
        """A convolution of this network; it must be made inside a compact method."""
        return CausalConv3d(
            features, self.causal, self.padding, stride, size, self.conv_impl, self.dtype, self.param_dtype, name=name
        )

    def norm(self, name: str, x: Array) -> Array:
        """x normalised over channels at each position ("pixel_norm", without parameters) or in groups."""
        if self.norm_layer == "pixel_norm":
            return rms_norm(x, eps=PIXEL_NORM_EPS)
        return GroupNorm(self.groups, self.param_dtype, name=name)(x)


def batch_sharded(x: Array) -> Array:
    """Constrain (B, ...) to be split over the batch alone."""
    return constrain(x, "batch", *(None,) * (x.ndim - 1))


def patchify(video: Array, patch: int) -> Array:
    """(B, F, H * q, W * r, C) -> (B, F, H, W, C * r * q); the column offset is slower than the row offset."""
    b, f, h, w, c = video.shape
    x = video.reshape(b, f, h // patch, patch, w // patch, patch, c)  # (B, F, H, q, W, r, C)
    return x.transpose(0, 1, 2, 4, 6, 5, 3).reshape(b, f, h // patch, w // patch, c * patch**2)


def unpatchify(x: Array, patch: int) -> Array:
    """The inverse of `patchify`."""
    b, f, h, w, c = x.shape
    x = x.reshape(b, f, h, w, c // patch**2, patch, patch)  # (B, F, H, W, C, r, q)
    return x.transpose(0, 1, 2, 6, 3, 5, 4).reshape(b, f, h * patch, w * patch, c // patch**2)


def space_to_depth(x: Array, stride: Stride) -> Array:
    """b (d p1) (h p2) (w p3) c -> b d h w (c p1 p2 p3)."""
    (b, f, h, w, c), (p1, p2, p3) = x.shape, stride
    x = x.reshape(b, f // p1, p1, h // p2, p2, w // p3, p3, c)
    x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)  # (B, F', H', W', C, p1, p2, p3)
    return x.reshape(b, f // p1, h // p2, w // p3, c * p1 * p2 * p3)


def depth_to_space(x: Array, stride: Stride) -> Array:
    """b d h w (c p1 p2 p3) -> b (d p1) (h p2) (w p3) c."""
    (b, f, h, w, c), (p1, p2, p3) = x.shape, stride
    x = x.reshape(b, f, h, w, c // math.prod(stride), p1, p2, p3)
    x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4)  # (B, F, p1, H, p2, W, p3, C')
    return x.reshape(b, f * p1, h * p2, w * p3, c // math.prod(stride))


class GroupNorm(nn.Module):
    """Group norm with statistics over (F, H, W, channels of the group), affine; float32 inside."""

    groups: int
    param_dtype: Any = jnp.float32
    eps: float = GROUP_NORM_EPS

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        require(
            width % self.groups == 0,
            f"Group norm needs widths that are multiples of {self.groups}, not {width}; choose 'pixel_norm'.",
        )
        scale = self.param("scale", partitioned(nn.initializers.ones, "conv_out"), (width,), self.param_dtype)
        bias = self.param("bias", partitioned(nn.initializers.zeros, "conv_out"), (width,), self.param_dtype)
        y = x.astype(jnp.float32).reshape(*x.shape[:4], self.groups, -1)  # (B, F, H, W, groups, C / groups)
        y = y - jnp.mean(y, axis=(1, 2, 3, 5), keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=(1, 2, 3, 5), keepdims=True) + self.eps)
        return (y.reshape(x.shape) * scale + bias).astype(x.dtype)


class TimestepEmbedder(nn.Module):
    """Scaled timesteps (B,) -> embeddings (B, features): a sinusoid, cosines first, and two layers; float32."""

    features: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, timestep: Array) -> Array:
        exponent = jnp.arange(TIMESTEP_FREQUENCIES, dtype=jnp.float32) / TIMESTEP_FREQUENCIES
        angle = timestep.astype(jnp.float32)[:, None] * jnp.exp(-math.log(10000.0) * exponent)  # (B, 128)
        x = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        linear = lambda name: Linear(self.features, ("conv_in", "conv_out"), param_dtype=self.param_dtype, name=name)
        return linear("linear_2")(nn.silu(linear("linear_1")(x)))


def modulation(table: Array, embedding: Array) -> list[Array]:
    """Rows of `table` (R, C) plus `embedding` (B, R * C), each (B, 1, 1, 1, C) and float32."""
    rows = table.astype(jnp.float32) + embedding.reshape(embedding.shape[0], *table.shape)  # (B, R, C)
    return [rows[:, i, None, None, None] for i in range(table.shape[0])]


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """x (1 + scale) + shift in float32, x's dtype out."""
    return (x.astype(jnp.float32) * (1 + scale) + shift).astype(x.dtype)
