"""The blocks of encoder and decoder (spec video_vae.md section 3); all take and return (B, F, H, W, C)."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.kernels.attention import attention
from ltx_jax.models.layers import partitioned
from ltx_jax.models.video_vae.conv import Pointwise2D, pad_time
from ltx_jax.models.video_vae.layers import (
    GroupNorm,
    Settings,
    Stride,
    TimestepEmbedder,
    depth_to_space,
    modulate,
    modulation,
    space_to_depth,
)  # fmt: skip

Array = jax.Array


class ResnetBlock(nn.Module):
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))) -> `features` channels.

    inject_noise: a noise (H, W) times a scale per channel is added after each convolution; absent noises are zero.
    """

    settings: Settings
    features: int
    inject_noise: bool = False

    @nn.compact
    def __call__(self, x: Array, embedding: Array | None = None, noises: Sequence[Array] | None = None) -> Array:
        """embedding: (B, 4 C) where the settings say `timestep`; noises: the two of this block, each (H, W)."""
        s, width = self.settings, x.shape[-1]
        rows: list[Array] = []
        if s.timestep:
            assert embedding is not None, "a timestep-conditioned block needs its embedding"
            init = partitioned(nn.initializers.normal(width**-0.5), "rows", "conv_out")
            rows = modulation(self.param("scale_shift_table", init, (4, width), s.param_dtype), embedding)
        h = x
        for i in (1, 2):
            h = s.norm(f"norm{i}", h)
            if s.timestep:
                h = modulate(h, *rows[2 * i - 2 : 2 * i])
            h = s.conv(f"conv{i}", self.features)(nn.silu(h))
            if self.inject_noise:
                init = partitioned(nn.initializers.zeros, None, None, "conv_out")
                scale = self.param(f"per_channel_scale{i}", init, (1, 1, width), s.param_dtype)
                if noises is not None:
                    h = h + (noises[i - 1][:, :, None] * scale).astype(h.dtype)  # (H, W, C), for all batches, frames
        if width != self.features:
            x = GroupNorm(1, s.param_dtype, name="norm3")(x)
            x = s.conv("conv_shortcut", self.features, size=1)(x)
        return x + h


class MidBlock(nn.Module):
    """`res_x`: residual blocks of one width, with one timestep embedder for all of them where conditioned."""

    settings: Settings
    layers: int
    inject_noise: bool = False

    @nn.compact
    def __call__(self, x: Array, timestep: Array | None = None, noises: Sequence[Array] | None = None) -> Array:
        """timestep: (B,), already scaled; noises: two per layer, each (H, W)."""
        s, width, embedding = self.settings, x.shape[-1], None
        if s.timestep:
            assert timestep is not None, "a timestep-conditioned block needs a timestep"
            embedding = TimestepEmbedder(4 * width, s.param_dtype, name="time_embedder")(timestep)
        for i in range(self.layers):
            mine = None if noises is None else noises[2 * i : 2 * i + 2]
            x = ResnetBlock(s, width, self.inject_noise, name=f"res_blocks_{i}")(x, embedding, mine)
        return x


class SpaceToDepthDownsample(nn.Module):
    """`compress_*_res`: convolution then space-to-depth, plus the input's space-to-depth averaged to the same width."""

    settings: Settings
    features: int
    stride: Stride

    @nn.compact
    def __call__(self, x: Array) -> Array:
        product = math.prod(self.stride)
        if self.stride[0] == 2:
            x = pad_time(x, 1, 0)  # 2 k + 1 frames become even; the convolution sees the copy, too
        skip = space_to_depth(x, self.stride)
        skip = skip.reshape(*skip.shape[:4], self.features, -1).mean(axis=-1)  # over consecutive channels
        return space_to_depth(self.settings.conv("conv", self.features // product)(x), self.stride) + skip


class DepthToSpaceUpsample(nn.Module):
    """`compress_*` of the decoder: convolution then depth-to-space -> C / divisor channels; 2 n frames lose the first.

    residual: the input's own depth-to-space is added, its channels repeated as one block until the widths agree.
    """

    settings: Settings
    stride: Stride
    divisor: int = 1
    residual: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        product, width = math.prod(self.stride), x.shape[-1]
        y = depth_to_space(self.settings.conv("conv", product * width // self.divisor)(x), self.stride)
        if self.residual:
            y = y + jnp.tile(depth_to_space(x, self.stride), product // self.divisor)
        return y[:, 1:] if self.stride[0] == 2 else y


class AttnBlock(nn.Module):
    """`attn`: single-head self-attention within each frame, added to its input (not in released configs)."""

    settings: Settings

    @nn.compact
    def __call__(self, x: Array) -> Array:
        s, (b, f, height, w, c) = self.settings, x.shape
        gamma = self.param("gamma", partitioned(nn.initializers.ones, None, None, "conv_out"), (1, 1, c), s.param_dtype)
        length = jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True)
        h = (x / jnp.maximum(length, 1e-12) * c**0.5 * gamma).astype(s.dtype)
        layer = lambda name, features: Pointwise2D(features, s.dtype, s.param_dtype, name=name)
        qkv = layer("to_qkv", 3 * c)(h).reshape(b * f, height * w, 3, 1, c)  # (B F, T, 3, N = 1, K = C)
        y = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(x.shape)
        return x + layer("proj", c)(y)
