"""The generator inside a vocoder: log-mel -> stereo waveform (spec audio_vae.md section 7).

Signals are (B, L, C). Transposed convolutions run as an ordinary convolution that makes all phases of an input step
at once, so no inserted zero is multiplied.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.models.audio_vae import filters
from ltx_jax.models.audio_vae.config import GeneratorConfig
from ltx_jax.models.audio_vae.layers import batch_sharded
from ltx_jax.models.audio_vae.mel import LOG_FLOOR
from ltx_jax.models.layers import partitioned

Array = jax.Array

STEREO = 2
SLOPE = 0.1  # of every leaky ReLU but the last one of resblock "1", which is torch's default
LAST_SLOPE = 0.01
ACTIVATION_RATIO, ACTIVATION_TAPS = 2, 12
KERNEL_AXES = ("kernel", "conv_in", "conv_out")
# A vocoder begins quiet: what is loud and wrong is unlearned first, and takes all that the random layers can say along.
FIRST_LOUDNESS = 0.05


class Conv1D(nn.Module):
    """Correlation over time, zero-padded to keep the length; kernel (k, in, out), k odd, computed in `dtype`."""

    features: int
    size: int
    dilation: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape, pad = (self.size, x.shape[-1], self.features), self.dilation * (self.size - 1) // 2
        init = partitioned(nn.initializers.lecun_normal(), *KERNEL_AXES)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel, (1,), ((pad, pad),), rhs_dilation=(self.dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )  # fmt: skip
        return y + _bias(self).astype(self.dtype) if self.use_bias else y


class ConvTranspose1D(nn.Module):
    """Transposed convolution: (B, L, in) -> (B, (L - 1) * stride + k - 2 * pad, out), pad = (k - stride) // 2.

    kernel (k, in, out), not flipped: input step i adds x[i] @ kernel[t] to the output i * stride + t - pad.
    """

    features: int
    size: int
    stride: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        (b, length, channels), stride = x.shape, self.stride
        init = partitioned(nn.initializers.lecun_normal(), *KERNEL_AXES)
        kernel = self.param("kernel", init, (self.size, channels, self.features), self.param_dtype).astype(self.dtype)
        steps = -(-self.size // stride)  # input steps that reach one output
        kernel = jnp.pad(kernel, ((0, steps * stride - self.size), (0, 0), (0, 0)))
        phases = kernel.reshape(steps, stride, channels, self.features)[::-1]  # earlier inputs use later taps
        phases = phases.transpose(0, 2, 1, 3).reshape(steps, channels, stride * self.features)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), phases, (1,), ((steps - 1, steps - 1),), dimension_numbers=("NWC", "WIO", "NWC")
        )
        y = y.reshape(b, (length + steps - 1) * stride, self.features)  # (B, step, phase x C) -> (B, L', C)
        pad = (self.size - stride) // 2
        return y[:, pad : (length - 1) * stride + self.size - pad] + _bias(self).astype(self.dtype)


class PeriodicActivation(nn.Module):
    """Anti-aliased snake (section 7): upsample x2, x + sin(a x)^2 / (b + 1e-9), low-pass, downsample x2.

    alpha and beta are logarithms, per channel; plain snake (`beta` False) has b = a. The two filters are stored with
    the weights and used as stored, but they are no trainable parameters: no gradient reaches them.
    """

    beta: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        zeros = partitioned(nn.initializers.zeros, "conv_out")
        alpha = self.param("alpha", zeros, x.shape[-1:], self.param_dtype)
        beta = self.param("beta", zeros, x.shape[-1:], self.param_dtype) if self.beta else alpha
        a, b = (jnp.exp(p.astype(jnp.float32)).astype(self.dtype) for p in (alpha, beta))
        y = filters.upsample(x, self._filter("upsample"), ACTIVATION_RATIO)
        y = y + jnp.square(jnp.sin(a * y)) / (b + 1e-9)
        return filters.downsample(y, self._filter("downsample"), ACTIVATION_RATIO)

    def _filter(self, name: str) -> Array:
        taps = filters.kaiser_resampler(ACTIVATION_RATIO, ACTIVATION_TAPS)
        init = lambda key, shape, dtype: jnp.asarray(taps, dtype).reshape(shape)
        stored = self.param(name, partitioned(init, None, None, "kernel"), (1, 1, ACTIVATION_TAPS), self.param_dtype)
        return jax.lax.stop_gradient(stored.astype(self.dtype)).reshape(-1)


class ResidualBlock(nn.Module):
    """x += conv2(act(conv1(act(x)))) for each dilation; act is leaky ReLU, or an own periodic activation each time."""

    config: GeneratorConfig
    index: int  # of resblock_kernel_sizes
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size, types = self.config.resblock_kernel_sizes[self.index], (self.dtype, self.param_dtype)
        for d, dilation in enumerate(self.config.resblock_dilation_sizes[self.index]):
            h = self._activate(f"acts1_{d}", x)
            h = Conv1D(x.shape[-1], size, dilation, True, *types, name=f"convs1_{d}")(h)
            h = self._activate(f"acts2_{d}", h)
            x = x + Conv1D(x.shape[-1], size, 1, True, *types, name=f"convs2_{d}")(h)
        return x

    def _activate(self, name: str, x: Array) -> Array:
        if self.config.resblock == "1":
            return nn.leaky_relu(x, SLOPE)
        beta = self.config.activation == "snakebeta"
        return PeriodicActivation(beta, self.dtype, self.param_dtype, name=name)(x)


class Generator(nn.Module):
    """Log-mel (B, M, bins, 2) -> waveform (B, M * prod(upsample_rates), 2) (section 7)."""

    config: GeneratorConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, mel: Array) -> Array:
        c, types = self.config, (self.dtype, self.param_dtype)
        b, frames, bins, channels = mel.shape
        x = mel.transpose(0, 1, 3, 2).reshape(b, frames, channels * bins)  # stereo-major
        x = Conv1D(c.upsample_initial_channel, 7, 1, True, *types, name="conv_pre")(x)
        blocks = len(c.resblock_kernel_sizes)
        for i, (rate, size) in enumerate(zip(c.upsample_rates, c.upsample_kernel_sizes, strict=True)):
            if c.resblock == "1":
                x = nn.leaky_relu(x, SLOPE)
            x = batch_sharded(ConvTranspose1D(c.width(i + 1), size, rate, *types, name=f"ups_{i}")(x))
            outputs = [ResidualBlock(c, j, *types, name=f"resblocks_{i * blocks + j}")(x) for j in range(blocks)]
            x = sum(outputs[1:], start=outputs[0]) / blocks  # all start from the same x
        if c.resblock == "1":
            x = nn.leaky_relu(x, LAST_SLOPE)
        else:  # always with its own beta, whatever `activation` says
            x = PeriodicActivation(True, *types, name="act_post")(x)
        x = Conv1D(STEREO, 7, 1, c.use_bias_at_final, *types, name="conv_post")(x)
        if not c.apply_final_activation:
            return x
        return jnp.tanh(x) if c.use_tanh_at_final else jnp.clip(x, -1, 1)


def _bias(module: Conv1D | ConvTranspose1D) -> Array:
    init = partitioned(nn.initializers.zeros, "conv_out")
    return module.param("bias", init, (module.features,), module.param_dtype)


def quiet(params: dict[str, Any]) -> dict[str, Any]:
    """Random parameters of a generator with a softer last layer, and a first one that turns silence into zeros."""
    first, last = params["conv_pre"], params["conv_post"]
    first = first | {"bias": -math.log(LOG_FLOOR) * jnp.sum(first["kernel"], (0, 1))}
    return params | {"conv_pre": first, "conv_post": last | {"kernel": FIRST_LOUDNESS * last["kernel"]}}
