"""The log-mel front end (spec audio_vae.md section 2): float32, jittable, with finite gradients at silence."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require
from ltx_jax.models.audio_vae.config import AudioVAEConfig

Array = jax.Array

LOG_FLOOR = 1e-5


def hann_window(length: int) -> np.ndarray:
    """Periodic Hann window, float32 (length,)."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


@functools.lru_cache
def mel_filterbank(n_fft: int, bins: int, rate: int) -> np.ndarray:
    """Slaney filterbank from 0 to rate / 2 Hz, area-normalised: float32 (n_fft / 2 + 1, bins)."""
    frequencies = np.linspace(0, rate // 2, n_fft // 2 + 1)
    points = _mel_to_hertz(np.linspace(0, _hertz_to_mel(rate / 2), bins + 2))
    left, centre, right = points[:-2], points[1:-1], points[2:]
    rising = (frequencies[:, None] - left) / (centre - left)
    falling = (right - frequencies[:, None]) / (right - centre)
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)).astype(np.float32)


def frame(signal: Array, length: int, hop: int) -> Array:
    """Overlapping frames of `length` samples every `hop`: (..., L) -> (..., 1 + (L - length) // hop, length).

    Made of shifted slices, not of a gather, whose gradient would scatter.
    """
    count, blocks = 1 + (signal.shape[-1] - length) // hop, -(-length // hop)
    total = (count - 1 + blocks) * hop
    signal = jnp.pad(signal, [(0, 0)] * (signal.ndim - 1) + [(0, max(0, total - signal.shape[-1]))])[..., :total]
    hops = signal.reshape(*signal.shape[:-1], count - 1 + blocks, hop)
    frames = jnp.concatenate([hops[..., i : i + count, :] for i in range(blocks)], axis=-1)
    return frames[..., :length]  # (..., M, length)


def magnitude(real: Array, imaginary: Array) -> Array:
    """sqrt(real^2 + imaginary^2) whose gradient at zero is zero, not NaN; a NaN stays one."""
    power = jnp.square(real) + jnp.square(imaginary)
    silent = power == 0
    return jnp.where(silent, 0.0, jnp.sqrt(jnp.where(silent, 1.0, power)))


def stft_magnitude(waveform: Array, n_fft: int, hop: int) -> Array:
    """Magnitudes of the centred STFT (reflect padding, periodic Hann of n_fft samples, no normalisation).

    waveform (..., L) -> float32 (..., 1 + L // hop, n_fft / 2 + 1).
    Raises UserError when L <= n_fft / 2, where a reflection does not exist: pad with zeros before.
    """
    length, pad = waveform.shape[-1], n_fft // 2
    require(
        length > pad,
        f"A waveform of {length} samples is too short for an STFT of {n_fft}: pad it to over {pad} samples.",
    )
    padded = jnp.pad(waveform.astype(jnp.float32), [(0, 0)] * (waveform.ndim - 1) + [(pad, pad)], mode="reflect")
    spectrum = jnp.fft.rfft(frame(padded, n_fft, hop) * hann_window(n_fft))
    return magnitude(spectrum.real, spectrum.imag)


def log_of_mel(magnitudes: Array, filterbank: Array | np.ndarray) -> Array:
    """ln(max(magnitudes @ filterbank, 1e-5)): (..., frequencies) -> (..., bins), float32."""
    mel = jnp.matmul(magnitudes, filterbank, precision=jax.lax.Precision.HIGHEST)
    return jnp.log(jnp.maximum(mel, LOG_FLOOR))


def log_mel(waveform: Array, config: AudioVAEConfig) -> Array:
    """Log-mel spectrogram of every channel: waveform (B, C, L) in [-1, 1] at config.sampling_rate -> (B, M, bins, C).

    M = 1 + L // hop_length; float32. Raises UserError when the waveform is shorter than half a window.
    """
    magnitudes = stft_magnitude(waveform, config.filter_length, config.hop_length)  # (B, C, M, frequencies)
    filterbank = mel_filterbank(config.filter_length, config.mel_bins, config.sampling_rate)
    return jnp.moveaxis(log_of_mel(magnitudes, filterbank), 1, -1)


def _hertz_to_mel(hertz: float) -> float:
    return hertz / (200 / 3) if hertz < 1000 else 15 + math.log(hertz / 1000) / (math.log(6.4) / 27)


def _mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * (200 / 3), 1000 * np.exp((mel - 15) * (math.log(6.4) / 27)))
