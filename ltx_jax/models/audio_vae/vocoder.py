"""Vocoder: log-mel -> stereo waveform (spec audio_vae.md sections 7 and 8)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require
from ltx_jax.models.audio_vae import filters
from ltx_jax.models.audio_vae.config import BandwidthConfig, VocoderConfig
from ltx_jax.models.audio_vae.generator import STEREO, Generator
from ltx_jax.models.audio_vae.layers import batch_sharded
from ltx_jax.models.audio_vae.mel import frame, hann_window, log_of_mel, magnitude, mel_filterbank
from ltx_jax.models.layers import partitioned

Array = jax.Array


class BandwidthExtension(nn.Module):
    """Waveform (B, n, 2) at the input rate -> (B, n * ratio, 2) at the output rate (section 8); float32 throughout.

    A generator adds what is missing to a sinc-upsampled copy. The bases of its mel are stored with the weights and
    used as stored (they carry the rounding of training), but no gradient reaches them. `inverse_basis` is read by
    nothing; it is kept so that a file can be written back whole.
    """

    config: BandwidthConfig
    param_dtype: Any = jnp.float32

    def setup(self):
        c, basis = self.config, (self.config.n_fft + 2, 1, self.config.n_fft)
        fixed = lambda value: partitioned(lambda key, shape, dtype: jnp.asarray(value(), dtype), *(None,) * len(basis))
        self.generator = Generator(c, jnp.float32, self.param_dtype)
        self.forward_basis = self.param("forward_basis", fixed(lambda: dft_basis(c.n_fft)), basis, self.param_dtype)
        zeros = partitioned(nn.initializers.zeros, *(None,) * len(basis))
        self.inverse_basis = self.param("inverse_basis", zeros, basis, self.param_dtype)
        filterbank = lambda key, shape, dtype: jnp.asarray(
            mel_filterbank(c.n_fft, c.num_mels, c.input_sampling_rate).T, dtype
        )
        shape = (c.num_mels, c.n_fft // 2 + 1)
        self.mel_basis = self.param("mel_basis", partitioned(filterbank, None, None), shape, self.param_dtype)

    def __call__(self, low: Array) -> Array:
        c, samples = self.config, low.shape[1]
        low = jnp.pad(low, ((0, 0), (0, -samples % c.hop_length), (0, 0)))
        high = self.generator(self.log_mel(low)) + filters.upsample_hann(low, c.ratio)
        return jnp.clip(high, -1, 1)[:, : samples * c.output_sampling_rate // c.input_sampling_rate]

    def log_mel(self, low: Array) -> Array:
        """Causal log-mel (zeros on the left alone) of (B, n, 2), n a multiple of the hop: (B, n / hop, bins, 2)."""
        c, precision = self.config, jax.lax.Precision.HIGHEST
        basis, mel = (jax.lax.stop_gradient(b.astype(jnp.float32)) for b in (self.forward_basis, self.mel_basis))
        padded = jnp.pad(low.transpose(0, 2, 1), ((0, 0), (0, 0), (c.n_fft - c.hop_length, 0)))
        frames = frame(padded, c.n_fft, c.hop_length)  # (B, 2, M, n_fft)
        real, imaginary = jnp.split(jnp.matmul(frames, basis[:, 0].T, precision=precision), 2, axis=-1)
        return jnp.moveaxis(log_of_mel(magnitude(real, imaginary), mel.T), 1, -1)


def dft_basis(n_fft: int) -> np.ndarray:
    """Windowed DFT as correlation kernels, float32 (n_fft + 2, 1, n_fft): all cosines, then all negative sines."""
    angles = 2 * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft
    rows = np.concatenate([np.cos(angles), -np.sin(angles)]) * hann_window(n_fft)
    return rows[:, None].astype(np.float32)


class Vocoder(nn.Module):
    """Log-mel (B, M, bins, 2) -> waveform (B, 2, samples) in [-1, 1] at config.sampling_rate.

    A release with a bandwidth extension runs in float32 whatever `dtype` is: over a hundred convolutions in a row
    lose audibly in bfloat16 (section 8). Raises UserError on a mel that is not stereo.
    """

    config: VocoderConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, mel: Array) -> Array:
        require(
            mel.ndim == 4 and mel.shape[-1] == STEREO,
            f"The vocoder needs a stereo mel spectrogram (batch, time, bins, 2), but got the shape {mel.shape}.",
        )
        mel = batch_sharded(mel.astype(jnp.float32))
        if self.config.bwe is None:
            waveform = Generator(self.config.vocoder, self.dtype, self.param_dtype, name="generator")(mel)
        else:
            low = Generator(self.config.vocoder, jnp.float32, self.param_dtype, name="generator")(mel)
            waveform = BandwidthExtension(self.config.bwe, self.param_dtype, name="bandwidth")(low)
        return waveform.transpose(0, 2, 1)
