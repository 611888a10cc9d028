"""Terms of the autoencoders' losses, and the statistics of their latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.training.autoencoders import objectives as vae


def test_kl_is_zero_for_the_standard_normal_and_clips_the_log_variance():
    assert float(vae.kl_divergence(jnp.zeros(()), jnp.zeros(()))) == 0
    wild = vae.kl_divergence(jnp.zeros(()), jnp.float32(1e9))
    np.testing.assert_allclose(wild, 0.5 * (np.exp(20.0) - 1 - 20), rtol=1e-6)


def test_reparameterised_latents_have_the_moments_and_belong_to_the_sample():
    keys = jax.random.split(jax.random.key(0), 4)
    mean, log_variance = jnp.full((4, 50, 40), 2.0), jnp.full((4, 50, 40), np.log(9.0))
    z = np.asarray(vae.reparameterize(mean, log_variance, keys))
    assert abs(z.mean() - 2) < 0.1 and abs(z.std() - 3) < 0.1
    np.testing.assert_array_equal(z[2:], vae.reparameterize(mean[2:], log_variance[2:], keys[2:]))


def test_gradient_loss_ignores_a_constant_and_sees_blur():
    video = jax.random.uniform(jax.random.key(0), (1, 3, 9, 8, 3))
    assert float(vae.gradient_loss(video + 0.3, video)) < 1e-6
    assert float(vae.gradient_loss(jnp.full_like(video, 0.5), video)) > 0.1


def test_stft_loss_is_zero_for_equal_sound_and_finite_at_silence():
    wave = jnp.sin(jnp.arange(4000) * 0.1) * jnp.ones((2, 2, 1))
    loss = jax.jit(jax.value_and_grad(lambda x: jnp.sum(vae.stft_loss(x, wave))))
    np.testing.assert_allclose(loss(wave)[0], 0, atol=1e-3)
    gradient = loss(jnp.zeros_like(wave))[1]
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_clips_without_sound_weigh_nothing():
    np.testing.assert_allclose(vae.sample_weights(jnp.array([True, False, True])), [0.5, 0, 0.5])
    np.testing.assert_array_equal(vae.sample_weights(jnp.array([False, False])), [0, 0])


def test_statistics_are_those_of_all_batches_together():
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 2, (4, 7, 5)).astype(np.float32) for _ in range(6)]
    heard = np.array([1, 0, 1, 1], np.float32)
    found = vae.latent_statistics(lambda x: vae._sums(jnp.asarray(x), jnp.asarray(heard)), batches)
    chosen = np.concatenate([b[heard > 0].reshape(-1, 5) for b in batches])
    np.testing.assert_allclose(found["mean"], chosen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["std"], chosen.std(0), rtol=1e-5)


def test_statistics_of_no_sound_are_an_error():
    with pytest.raises(UserError, match="sound"):
        vae.latent_statistics(lambda x: vae._sums(x, jnp.zeros(2)), [jnp.ones((2, 3, 4))])
