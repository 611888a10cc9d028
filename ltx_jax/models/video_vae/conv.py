"""Convolutions over (B, F, H, W, C) that never look past the first or last frame (spec video_vae.md section 3).

Time is padded by repeating frames, space in the mode of the config. Two formulations of one function: "native" is one
3D convolution, which TPUs and GPUs want; "taps" folds frames into the batch and sums 2D convolutions
over the time taps, which XLA's CPU backend runs several times faster.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.errors import require
from ltx_jax.models.layers import partitioned
from ltx_jax.models.video_vae.config import Padding

Array = jax.Array
ConvImpl = Literal["native", "taps"]

# The names that jnp.pad has for the official padding modes; zeros are left to the convolution itself.
_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad_time(x: Array, before: int, after: int) -> Array:
    """x (B, F, ...) with its first frame repeated `before` times in front and its last one `after` times behind."""
    return jnp.concatenate([x[:, :1]] * before + [x] + [x[:, -1:]] * after, axis=1) if before + after else x


def pad_space(x: Array, size: int, mode: Padding) -> tuple[Array, tuple[tuple[int, int], tuple[int, int]]]:
    """x (B, F, H, W, C) padded for an odd kernel of `size`, and the zeros (rows, columns) left to the convolution.

    Raises UserError where the image is too small to be reflected.
    """
    n = size // 2
    if mode == "zeros" or n == 0:
        return x, ((n, n), (n, n))
    require(
        mode != "reflect" or min(x.shape[2:4]) > n,
        f"Reflecting padding needs at least {n + 1} rows and columns, but got {x.shape[2]} x {x.shape[3]}.",
    )
    return jnp.pad(x, ((0, 0), (0, 0), (n, n), (n, n), (0, 0)), mode=_PAD_MODES[mode]), ((0, 0), (0, 0))


def native_conv(x: Array, kernel: Array, stride: tuple[int, int, int], pads: tuple) -> Array:
    """Valid over time, zeros `pads` over space: x (B, F, H, W, C), kernel (kt, kh, kw, C, out)."""
    layout = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, kernel, stride, ((0, 0), *pads), dimension_numbers=layout)


def taps_conv(x: Array, kernel: Array, stride: tuple[int, int, int], pads: tuple) -> Array:
    """The same function as `native_conv`: the sum over the time taps of 2D convolutions of the frames they see."""
    frames = (x.shape[1] - kernel.shape[0]) // stride[0] + 1
    span = (frames - 1) * stride[0] + 1

    def tap(k: int) -> Array:
        seen = x[:, k : k + span : stride[0]].reshape(-1, *x.shape[2:])  # (B F', H, W, C)
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(seen, kernel[k], stride[1:], pads, dimension_numbers=layout)

    y = sum((tap(k) for k in range(1, kernel.shape[0])), start=tap(0))
    return y.reshape(x.shape[0], frames, *y.shape[1:])


IMPLEMENTATIONS = {"native": native_conv, "taps": taps_conv}


class CausalConv3d(nn.Module):
    """3D convolution with bias; kernel (kt, kh, kw, in, out).

    causal: the first frame is repeated kt - 1 times in front; else both ends (kt - 1) / 2 times. Output frames are
    floor((F - 1) / stride_t) + 1. size: 3, or 1 for the pointwise shortcut.
    """

    features: int
    causal: bool = True
    padding: Padding = "zeros"
    stride: tuple[int, int, int] = (1, 1, 1)
    size: int = 3
    impl: ConvImpl = "native"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size,) * 3 + (x.shape[-1], self.features)
        init = partitioned(nn.initializers.lecun_normal(), "kernel", "kernel", "kernel", "conv_in", "conv_out")
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = self.param("bias", partitioned(nn.initializers.zeros, "conv_out"), (self.features,), self.param_dtype)
        extra = self.size - 1
        x = x.astype(self.dtype)
        x = pad_time(x, extra, 0) if self.causal else pad_time(x, extra // 2, extra // 2)
        x, pads = pad_space(x, self.size, self.padding)
        y = IMPLEMENTATIONS[self.impl](x, kernel.astype(self.dtype), self.stride, pads)
        return y + bias.astype(self.dtype)


class Pointwise2D(nn.Module):
    """A 1x1 convolution of each frame, as matrix product; kernel (1, 1, in, out) as released files have it."""

    features: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = partitioned(nn.initializers.lecun_normal(), "kernel", "kernel", "conv_in", "conv_out")
        kernel = self.param("kernel", init, (1, 1, x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", partitioned(nn.initializers.zeros, "conv_out"), (self.features,), self.param_dtype)
        return x.astype(self.dtype) @ kernel[0, 0].astype(self.dtype) + bias.astype(self.dtype)
