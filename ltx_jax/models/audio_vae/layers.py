"""Building blocks of the audio VAE (spec audio_vae.md section 4): convolutions, norms, residual blocks, resampling.

Everything is (B, time, mel, C); the official "height" is time and "width" is mel.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.errors import require
from ltx_jax.kernels.attention import attention
from ltx_jax.models.audio_vae.config import AudioVAEConfig
from ltx_jax.models.layers import partitioned, rms_norm
from ltx_jax.parallel.rules import constrain

Array = jax.Array
Pads = tuple[tuple[int, int], tuple[int, int]]

NORM_EPS = 1e-6
GROUPS = 32


def same_pads(kernel: int, causality_axis: str) -> Pads:
    """Zeros (before, after) on time and mel that keep the size; all before on the causal axis."""
    total = kernel - 1
    causal, centred = (total, 0), (total // 2, total - total // 2)
    return (
        causal if causality_axis == "height" else centred,
        causal if causality_axis.startswith("width") else centred,
    )


# Zeros (before, after) on time and mel before the strided convolution of kernel 3.
DOWNSAMPLE_PADS: dict[str, Pads] = {
    "height": ((2, 0), (0, 1)),
    "width": ((0, 1), (2, 0)),
    "width-compatibility": ((0, 1), (1, 0)),
    "none": ((0, 1), (0, 1)),
}


def batch_sharded(x: Array) -> Array:
    """Constrain (B, ...) to be split over the batch alone."""
    return constrain(x, "batch", *(None,) * (x.ndim - 1))


class Conv2D(nn.Module):
    """Correlation over (time, mel) with explicit zero padding; kernel (time, mel, in, out), computed in `dtype`."""

    features: int
    size: int
    pads: Pads
    stride: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        init = partitioned(nn.initializers.lecun_normal(), "kernel", "kernel", "conv_in", "conv_out")
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = self.param("bias", partitioned(nn.initializers.zeros, "conv_out"), (self.features,), self.param_dtype)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            self.pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias.astype(self.dtype)


class GroupNorm(nn.Module):
    """Group norm over 32 groups of channels, all times and bins; statistics in float32."""

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", partitioned(nn.initializers.ones, "conv_out"), x.shape[-1:], self.param_dtype)
        bias = self.param("bias", partitioned(nn.initializers.zeros, "conv_out"), x.shape[-1:], self.param_dtype)
        y = x.astype(jnp.float32).reshape(*x.shape[:3], GROUPS, -1)  # (B, T, f, groups, C / groups)
        y = y - jnp.mean(y, axis=(1, 2, 4), keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=(1, 2, 4), keepdims=True) + NORM_EPS)
        return (y.reshape(x.shape) * scale + bias).astype(x.dtype)


class Block(nn.Module):
    """What the blocks share: their configuration, and how they make convolutions and norms."""

    config: AudioVAEConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def conv(self, name: str, features: int, size: int = 3) -> Conv2D:
        """A convolution of stride 1 that keeps the size and respects the causal axis."""
        pads = same_pads(size, self.config.causality_axis)
        return Conv2D(features, size, pads, dtype=self.dtype, param_dtype=self.param_dtype, name=name)

    def norm(self, name: str, x: Array) -> Array:
        """x normalised: per position over channels ("pixel", without parameters) or in groups."""
        if self.config.norm_type == "pixel":
            return rms_norm(x, eps=NORM_EPS)
        return GroupNorm(self.param_dtype, name=name)(x)


class ResnetBlock(Block):
    """x + conv2(silu(norm(conv1(silu(norm(x)))))) -> `features` channels, a 1x1 shortcut where the width changes."""

    features: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = self.conv("conv1", self.features)(nn.silu(self.norm("norm1", x)))
        h = self.conv("conv2", self.features)(nn.silu(self.norm("norm2", h)))
        if x.shape[-1] != self.features:
            x = self.conv("nin_shortcut", self.features, 1)(x)
        return x + h


class AttnBlock(Block):
    """Single-head self-attention over all times and bins, added to its input. No release uses it."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h, width = self.norm("norm", x), x.shape[-1]
        flat = (x.shape[0], x.shape[1] * x.shape[2], 1, width)
        q, k, v = (self.conv(name, width, 1)(h).reshape(flat) for name in "qkv")  # (B, T f, N = 1, K = C)
        return x + self.conv("proj_out", width, 1)(attention(q, k, v).reshape(x.shape))


class Downsample(Block):
    """Half the times and bins: convolution of stride 2, or the mean of 2 x 2 cells without `resamp_with_conv`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if not self.config.resamp_with_conv:
            b, t, f, c = x.shape
            cells = x[:, : t // 2 * 2, : f // 2 * 2].reshape(b, t // 2, 2, f // 2, 2, c)
            return cells.mean(axis=(2, 4))
        pads = DOWNSAMPLE_PADS[self.config.causality_axis]
        return Conv2D(x.shape[-1], 3, pads, 2, self.dtype, self.param_dtype, name="conv")(x)


class Upsample(Block):
    """Twice the times and bins, each repeated, then a convolution; the first element of the causal axis is dropped.

    Dropping happens after the convolution: n causal elements become 2 n - 1.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        if self.config.resamp_with_conv:
            x = self.conv("conv", x.shape[-1])(x)
        axis = self.config.causality_axis
        return x[:, int(axis == "height") :, int(axis == "width") :]


class Middle(Block):
    """The bottom of encoder and decoder: residual block, attention where configured, residual block."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        settings = (self.config, self.dtype, self.param_dtype)
        x = ResnetBlock(*settings, features=x.shape[-1], name="block_1")(x)
        if self.config.mid_block_add_attention:
            x = AttnBlock(*settings, name="attn_1")(x)
        return ResnetBlock(*settings, features=x.shape[-1], name="block_2")(x)


class Level(Block):
    """One resolution: `count` residual blocks to `features` channels, each followed by attention where configured."""

    level: int = 0
    features: int = 0
    count: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        settings = (self.config, self.dtype, self.param_dtype)
        for j in range(self.count):
            x = ResnetBlock(*settings, features=self.features, name=f"block_{j}")(x)
            if self.config.has_attention(self.level):
                x = AttnBlock(*settings, name=f"attn_{j}")(x)
        return batch_sharded(x)


def check_input(x: Array, channels: int, what: str) -> None:
    """Raise UserError unless x is (B, time, bins, channels)."""
    require(
        x.ndim == 4 and x.shape[-1] == channels,
        f"The {what} must have the shape (batch, time, bins, {channels}), but has {x.shape}.",
    )
