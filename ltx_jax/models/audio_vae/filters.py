"""One-dimensional resampling filters that all channels share (spec audio_vae.md sections 7 and 8).

Signals are (B, L, C). A filter runs as a weighted sum of shifted slices, one set per phase: no multiplication by an
inserted zero, no grouped convolution (slow on CPUs), and XLA fuses it into its surroundings.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# A vocoder has hundreds of these, of few shapes: traced once for each, they become part of the caller as before.
traced_once = functools.partial(jax.jit, static_argnums=2, inline=True)


@functools.lru_cache
def kaiser_lowpass(taps: int, cutoff: float, half_width: float) -> np.ndarray:
    """Kaiser-windowed sinc low-pass of unit sum, float32 (taps,); cutoff and half_width in cycles per sample."""
    attenuation = 2.285 * (taps // 2 - 1) * math.pi * (4 * half_width) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    n = np.arange(taps)
    time = n - taps // 2 + (0.5 if taps % 2 == 0 else 0.0)
    values = 2 * cutoff * np.kaiser(taps, beta) * np.sinc(2 * cutoff * time)
    return (values / values.sum()).astype(np.float32)


@functools.lru_cache
def hann_upsampler(ratio: int) -> np.ndarray:
    """Hann-windowed sinc for upsampling by `ratio`, float32 (2 * ceil(6 / 0.99) * ratio + 1,) (section 8, step 5)."""
    width, rolloff, zeros = hann_width(), 0.99, 6
    time = (np.arange(2 * width * ratio + 1) / ratio - width) * rolloff
    window = np.cos(np.pi * np.clip(time, -zeros, zeros) / (2 * zeros)) ** 2
    return (np.sinc(time) * window * rolloff / ratio).astype(np.float32)


def hann_width() -> int:
    """Input samples on either side that `hann_upsampler` reaches."""
    return math.ceil(6 / 0.99)


def kaiser_resampler(ratio: int, taps: int) -> np.ndarray:
    """The low-pass of both directions of an anti-aliased activation: cutoff 0.5 / ratio, half-width 0.6 / ratio."""
    return kaiser_lowpass(taps, 0.5 / ratio, 0.6 / ratio)


def edge_pad(x: Array, before: int, after: int) -> Array:
    """Repeat the first and last sample of x (B, L, C)."""
    return jnp.pad(x, ((0, 0), (before, after), (0, 0)), mode="edge")


def transposed_filter(x: Array, taps: Array | np.ndarray, stride: int) -> Array:
    """Transposed convolution of every channel with `taps` (K,): (B, L, C) -> (B, (L - 1) * stride + K, C).

    y[stride * q + p] = sum over j of x[q - j] taps[p + stride * j], for each phase p.
    """
    b, length, channels = x.shape
    size = taps.shape[0]
    count = -(-size // stride)
    phases = jnp.pad(jnp.asarray(taps, x.dtype), (0, count * stride - size)).reshape(count, stride)
    steps = length + count - 1
    padded = jnp.pad(x, ((0, 0), (count - 1, count - 1), (0, 0)))
    shifted = [padded[:, count - 1 - j : count - 1 - j + steps] for j in range(count)]
    outputs = [sum(s * phases[j, p] for j, s in enumerate(shifted)) for p in range(stride)]
    y = jnp.stack(outputs, axis=2).reshape(b, steps * stride, channels)  # (B, q, phase, C) -> (B, L', C)
    return y[:, : (length - 1) * stride + size]


def strided_filter(x: Array, taps: Array | np.ndarray, stride: int) -> Array:
    """Correlation of every channel with `taps` (K,), unpadded: (B, L, C) -> (B, 1 + (L - K) // stride, C)."""
    taps, size = jnp.asarray(taps, x.dtype), taps.shape[0]
    span = (x.shape[1] - size) // stride * stride + 1
    return sum(x[:, k : k + span : stride] * taps[k] for k in range(size))  # type: ignore[return-value]


@traced_once
def upsample(x: Array, taps: Array | np.ndarray, ratio: int) -> Array:
    """Kaiser-style upsampling (section 7): (B, L, C) -> (B, ratio * L, C)."""
    size = taps.shape[0]
    pad = size // ratio - 1
    y = transposed_filter(edge_pad(x, pad, pad), taps, ratio) * ratio
    left, right = pad * ratio + (size - ratio) // 2, pad * ratio + (size - ratio + 1) // 2
    return y[:, left : y.shape[1] - right]


def upsample_hann(x: Array, ratio: int) -> Array:
    """Hann-windowed sinc upsampling (section 8, step 5): (B, L, C) -> (B, ratio * L, C)."""
    taps, pad = hann_upsampler(ratio), hann_width()
    y = transposed_filter(edge_pad(x, pad, pad), taps, ratio) * ratio
    return y[:, 2 * pad * ratio : y.shape[1] - (taps.shape[0] - ratio)]


@traced_once
def downsample(x: Array, taps: Array | np.ndarray, ratio: int) -> Array:
    """Low-pass and decimate (section 7): (B, L, C) -> (B, ceil(L / ratio), C)."""
    size = taps.shape[0]
    return strided_filter(edge_pad(x, size // 2 - (size % 2 == 0), size // 2), taps, ratio)
