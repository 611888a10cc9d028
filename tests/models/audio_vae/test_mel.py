"""The mel front end: framing, the value of silence, finite gradients, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.audio_vae.config import AudioVAEConfig
from ltx_jax.models.audio_vae.mel import LOG_FLOOR, frame, log_mel, mel_filterbank, stft_magnitude

CONFIG = AudioVAEConfig()


@pytest.mark.parametrize("length, size, hop", [(100, 32, 8), (101, 32, 9), (32, 32, 8), (60, 10, 25), (107, 20, 20)])
def test_frames_are_windows_of_the_signal(length, size, hop):
    signal = np.random.default_rng(0).normal(size=(2, length)).astype(np.float32)
    expected = np.lib.stride_tricks.sliding_window_view(signal, size, axis=-1)[:, ::hop]
    np.testing.assert_array_equal(frame(jnp.asarray(signal), size, hop), expected)


def test_silence_is_the_floor_with_zero_gradient():
    silent = jnp.zeros((1, 2, 1600))
    np.testing.assert_allclose(log_mel(silent, CONFIG), np.log(LOG_FLOOR), rtol=1e-6)
    loss = lambda w: jnp.sum(log_mel(w, CONFIG)) + jnp.sum(stft_magnitude(w, 256, 64))
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(silent), 0)


def test_gradient_agrees_with_finite_differences():
    rng = np.random.default_rng(1)
    wave, direction = (jnp.asarray(rng.normal(size=(1, 1, 700)), jnp.float32) for _ in range(2))
    loss = jax.jit(lambda w: jnp.mean(log_mel(w, CONFIG)))
    slope = jnp.vdot(jax.grad(loss)(wave), direction)
    step = 3e-3  # larger: curvature; smaller: rounding of the loss
    numeric = (loss(wave + step * direction) - loss(wave - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, atol=1e-3)


def test_a_tone_peaks_in_its_band_and_channels_do_not_mix():
    time = np.arange(16000) / 16000
    wave = np.stack([np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 3000 * time)])[None]
    mel = np.asarray(log_mel(jnp.asarray(wave), CONFIG))
    assert mel.shape == (1, 101, 64, 2)
    bank = mel_filterbank(1024, 64, 16000)
    for channel, hertz in enumerate((440, 3000)):
        assert mel[0, 50, :, channel].argmax() == bank[round(hertz / 8000 * 512)].argmax()


def test_nan_is_not_hidden():
    wave = jnp.zeros((1, 1, 1600)).at[0, 0, 800].set(jnp.nan)
    assert jnp.isnan(log_mel(wave, CONFIG)).any()


def test_a_waveform_without_a_reflection_is_refused():
    with pytest.raises(UserError, match="512 samples is too short"):
        log_mel(jnp.zeros((1, 2, 512)), CONFIG)
