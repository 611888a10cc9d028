"""Discriminators of waveforms, for the adversarial training of the vocoder: by period, and by resolution.

Periods: HiFi-GAN (Kong et al., arXiv:2010.05646, section 2.3), the waveform folded to rows of one period each.
Resolutions: UnivNet (Jang et al., arXiv:2106.07889, section 2.2), magnitudes of several STFTs as pictures. No such
networks are published for this family; widths are ours and small.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.models.audio_vae.mel import stft_magnitude
from ltx_jax.models.layers import partitioned

Array = jax.Array

PERIODS = (2, 3, 5, 7, 11)
RESOLUTIONS = ((1024, 120), (2048, 240), (512, 50))  # (n_fft, hop)
MAGNITUDE_FLOOR = 1e-3


class WaveDiscriminator(nn.Module):
    """Waveform (B, 2, L) -> for every period and resolution its logits (B, ...) and features, a list of arrays each.

    The last array of each list is the logits; the others are what feature matching compares. All are float32.
    """

    base: int = 16
    layers: int = 3
    periods: tuple[int, ...] = PERIODS
    resolutions: tuple[tuple[int, int], ...] = RESOLUTIONS
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, waveform: Array) -> list[list[Array]]:
        pictures = [(f"period_{p}", _folded(waveform, p), (3, 1)) for p in self.periods]
        pictures += [
            (f"resolution_{n}", jnp.log(stft_magnitude(waveform, n, hop) + MAGNITUDE_FLOOR), (2, 2))
            for n, hop in self.resolutions
        ]
        return [self._judge(name, jnp.moveaxis(x, 1, -1), stride) for name, x, stride in pictures]

    def _judge(self, name: str, x: Array, stride: tuple[int, int]) -> list[Array]:
        """x (B, rows, columns, 2) through convolutions of `stride`: what each of them makes, then the logits."""
        size = (5, 1) if stride[1] == 1 else (3, 5)
        found, x = [], x.astype(self.dtype)
        for layer in range(self.layers):
            x = jax.nn.leaky_relu(_conv(f"{name}_{layer}", self.base * 2**layer, size, stride, self.dtype)(x), 0.1)
            found.append(x.astype(jnp.float32))
        logits = _conv(f"{name}_out", 1, (3, 3 if stride[1] > 1 else 1), (1, 1), self.dtype)(x)
        return [*found, logits[..., 0].astype(jnp.float32)]


def _folded(waveform: Array, period: int) -> Array:
    """(B, 2, L) -> (B, 2, L / period, period); the end is filled up by reflection."""
    rest = -waveform.shape[-1] % period
    padded = jnp.pad(waveform, ((0, 0), (0, 0), (0, rest)), mode="reflect")
    return padded.reshape(*waveform.shape[:2], -1, period)


def _conv(name: str, features: int, size: tuple[int, int], stride: tuple[int, int], dtype: Any) -> nn.Conv:
    init = partitioned(nn.initializers.lecun_normal(), "kernel", "kernel", "conv_in", "conv_out")
    bias = partitioned(nn.initializers.zeros, "conv_out")
    return nn.Conv(features, size, stride, kernel_init=init, bias_init=bias, dtype=dtype, name=name)
