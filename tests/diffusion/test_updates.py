"""Every formula of a step lands on the prediction at sigma 0 and reduces to Euler without noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion import updates

X, X0, NOISE = (jax.random.normal(jax.random.key(i), (2, 5, 3)) for i in range(3))


@pytest.mark.parametrize("sigma", [1.0, 0.6, 0.1])
def test_the_last_step_lands_on_the_prediction(sigma):
    np.testing.assert_allclose(updates.euler(X, X0, sigma, 0.0), X0, atol=1e-6)
    np.testing.assert_allclose(updates.euler_ancestral(X, X0, sigma, 0.0, NOISE), X0, atol=1e-6)
    np.testing.assert_allclose(updates.euler_cfg_pp(X, X0, sigma, 0.0, X0, NOISE), X0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.9, 0.6])
def test_without_noise_they_are_euler(sigma):
    euler = updates.euler(X, X0, sigma, sigma / 2)
    np.testing.assert_allclose(updates.euler_ancestral(X, X0, sigma, sigma / 2, NOISE, eta=0.0), euler, atol=1e-5)
    np.testing.assert_allclose(updates.euler_cfg_pp(X, X0, sigma, sigma / 2, X0, NOISE, eta=0.0), euler, atol=1e-5)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ancestral_steps_keep_the_noise_level(eta):
    """On the path x = (1 - s) x0 + s n the result has signal 1 - s' and noise of deviation s', however it is split."""
    s, s_next = 0.8, 0.5
    x0 = jnp.full((1, 4000, 1), 2.0)
    n, fresh = (jax.random.normal(jax.random.key(i), x0.shape) for i in (7, 8))
    y = updates.euler_ancestral((1 - s) * x0 + s * n, x0, s, s_next, fresh, eta=eta)
    assert np.isclose(float(y.mean()), (1 - s_next) * 2, atol=0.03)
    assert np.isclose(float(y.std()), s_next, rtol=0.03)


def test_dtype_is_kept():
    assert updates.euler(X.astype(jnp.bfloat16), X0, 0.5, 0.4).dtype == jnp.bfloat16
