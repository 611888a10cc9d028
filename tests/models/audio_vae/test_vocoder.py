"""Vocoder: resampling filters and transposed convolutions against direct sums, ranges, gradients, precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.audio_vae import filters
from ltx_jax.models.audio_vae.config import BandwidthConfig, GeneratorConfig, VocoderConfig
from ltx_jax.models.audio_vae.generator import ConvTranspose1D, PeriodicActivation
from ltx_jax.models.audio_vae.mel import hann_window
from ltx_jax.models.audio_vae.vocoder import Vocoder, dft_basis

PLAIN = GeneratorConfig(4, "1", (4, 2), (8, 4), (3,), ((3,),))
AMP = dataclasses.replace(
    PLAIN, resblock="AMP1", activation="snakebeta", use_tanh_at_final=False, use_bias_at_final=False
)
EXTENSION = BandwidthConfig(
    4, "AMP1", (4, 3), (8, 7), (3,), ((1,),), hop_length=6, output_sampling_rate=32000, n_fft=16, num_mels=8
)
KEY = jax.random.key(0)


def signal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def scatter(x, kernel, stride):
    """Transposed convolution as its definition: x (B, L, in), kernel (k, in, out)."""
    out = np.zeros((x.shape[0], (x.shape[1] - 1) * stride + kernel.shape[0], kernel.shape[2]))
    for i in range(x.shape[1]):
        out[:, i * stride : i * stride + kernel.shape[0]] += np.einsum("bi,kio->bko", x[:, i], kernel)
    return out


@pytest.mark.parametrize("size, stride", [(16, 6), (15, 5), (4, 2), (11, 5), (7, 4), (3, 3)])
def test_transposed_convolution_is_a_scatter(size, stride, initialise):
    x, module = signal(2, 5, 3), ConvTranspose1D(4, size, stride)
    params = initialise(module, x)
    pad = (size - stride) // 2
    expected = scatter(x, np.asarray(params["kernel"]), stride)
    expected = expected[:, pad : expected.shape[1] - pad] + np.asarray(params["bias"])
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-5)


@pytest.mark.parametrize("size, stride", [(12, 2), (43, 3), (7, 3), (2, 4)])
def test_transposed_filter_is_a_scatter(size, stride):
    x, taps = signal(2, 5, 3), signal(size)
    expected = scatter(x, taps[:, None, None] * np.eye(3), stride)
    np.testing.assert_allclose(filters.transposed_filter(jnp.asarray(x), taps, stride), expected, atol=1e-5)


def test_upsampling_keeps_a_slow_signal():
    x = np.sin(np.arange(200) * 0.05)[None, :, None].astype(np.float32)
    fine = np.sin(np.arange(600) / 3 * 0.05)
    y = np.asarray(filters.upsample_hann(jnp.asarray(x), 3))[0, :, 0]
    np.testing.assert_allclose(y[60:-60], fine[60:-60], atol=5e-3)
    taps = filters.kaiser_resampler(2, 12)
    back = filters.downsample(filters.upsample(jnp.asarray(x), taps, 2), taps, 2)
    np.testing.assert_allclose(back[0, 20:-20], x[0, 20:-20], atol=1e-2)


def test_stored_filters_get_no_gradient(initialise):
    module, x = PeriodicActivation(), jnp.asarray(signal(1, 8, 3))
    params = initialise(module, x)
    grads = jax.grad(lambda p: jnp.sum(jnp.square(module.apply({"params": p}, x))))(params)
    assert all(not grads[name].any() for name in ("upsample", "downsample"))
    assert all(grads[name].all() for name in ("alpha", "beta"))


def test_dft_basis_is_the_windowed_fourier_transform():
    x, basis = signal(16), dft_basis(16)
    real, imaginary = np.split(basis[:, 0] @ x, 2)
    np.testing.assert_allclose(real + 1j * imaginary, np.fft.rfft(x * hann_window(16)), atol=1e-5)


@pytest.mark.parametrize(
    "config, samples",
    [(VocoderConfig(PLAIN), 40), (VocoderConfig(AMP), 40), (VocoderConfig(AMP, EXTENSION), 80)],
    ids=["plain", "amp", "extended"],
)
def test_waveform_has_its_length_and_range(mesh, config, samples, initialise):
    module, mel = Vocoder(config), 5 * jnp.asarray(signal(2, 5, 8, 2))
    params = jax.tree.map(lambda p: 3 * p, initialise(module, mel))
    run = jax.jit(lambda p, x: module.apply({"params": p}, x))
    wave = run(params, mel)
    assert wave.shape == (2, 2, samples) and samples == 5 * config.upsampling
    assert jnp.abs(wave).max() <= 1
    assert jnp.isnan(run(params, mel.at[0, 0, 0, 0].set(jnp.nan))[0]).any()
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(run(p, mel)))))(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_an_extended_vocoder_stays_in_float32(mesh, initialise):
    config, mel = VocoderConfig(AMP, EXTENSION), jnp.asarray(signal(1, 4, 8, 2))
    params = initialise(Vocoder(config), mel)
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    whole = jax.tree.map(lambda p: p.astype(jnp.float32), half)
    run = lambda module, p: jax.jit(lambda p: module.apply({"params": p}, mel))(p)
    np.testing.assert_array_equal(run(Vocoder(config, jnp.bfloat16), half), run(Vocoder(config), whole))


def test_a_mono_mel_is_refused(mesh):
    with pytest.raises(UserError, match="stereo"):
        Vocoder(VocoderConfig(PLAIN)).init(KEY, jnp.zeros((1, 4, 8, 1)))
