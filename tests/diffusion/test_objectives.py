"""The distribution of training noise levels, and that the conversions invert each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion import objectives as o
from ltx_jax.errors import UserError


def draws(n=20000):
    keys = jax.random.split(jax.random.key(0), 3)
    return jax.random.normal(keys[0], (n,)), jax.random.uniform(keys[1], (n,)), jax.random.uniform(keys[2], (n,))


@pytest.mark.parametrize("tokens", [80, 1024, 4096, 8192])
def test_sigmas_lie_in_the_unit_interval_and_rise_with_tokens(tokens):
    sigma = o.sample_sigma(o.SigmaConfig(), tokens, *draws())
    assert float(sigma.min()) >= 1e-3 and float(sigma.max()) <= 1
    assert float(sigma.mean()) < float(o.sample_sigma(o.SigmaConfig(), tokens + 1000, *draws()).mean())


@pytest.mark.parametrize(("tokens", "mu"), [(1024, 0.95), (4096, 2.05), (8192, 3.516667), (126, 0.628451)])
def test_shift_is_linear_and_not_clamped(tokens, mu):
    assert np.isclose(o.logit_shift(tokens), mu, atol=1e-6)


def test_token_counts_may_differ_within_a_batch():
    z, u, q = (d[:2] for d in draws(2))
    both = o.shifted_logit_normal(jnp.array([1024, 4096]), z, u, q)
    for i, tokens in enumerate((1024, 4096)):
        np.testing.assert_allclose(both[i], o.shifted_logit_normal(tokens, z, u, q)[i], rtol=1e-5)


def test_noising_and_velocity_invert():
    x0, noise = (jax.random.normal(jax.random.key(i), (2, 5, 3)) for i in range(2))
    sigma = jnp.array([0.25, 0.75])
    x = o.add_noise(x0, noise, sigma)
    levels = jnp.broadcast_to(sigma[:, None], (2, 5))
    np.testing.assert_allclose(o.x0_from_velocity(x, o.velocity_target(x0, noise), levels), x0, atol=1e-6)
    np.testing.assert_allclose(o.velocity_from_x0(x[:1], x0[:1], 0.25), (noise - x0)[:1], atol=1e-5)


def test_bad_settings_are_sentences():
    for wrong in ({"min_value": 0.9, "max_value": 0.1}, {"std": 0.0}, {"uniform_prob": 2.0}):
        with pytest.raises(UserError):
            o.SigmaConfig(**wrong)
