"""Draws: the same numbers as JAX's own to within rounding, but bits that follow from key and place alone."""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.rng import normal

KEYS = jax.random.split(jax.random.key(3), 6)


def test_normals_are_those_of_jax_to_within_rounding():
    ours, theirs = normal(KEYS[0], (1_000_000,)), jax.random.normal(KEYS[0], (1_000_000,))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)  # those of JAX lose digits beyond 3
    x = np.asarray(jax.random.uniform(KEYS[0], (1_000_000,), minval=np.nextafter(np.float32(-1), np.float32(0))), float)
    exact = NormalDist().inv_cdf
    some = np.r_[np.argsort(x)[[0, 1, -2, -1]], :2000]
    np.testing.assert_allclose(ours[some], [exact((1 + v) / 2) for v in x[some]], rtol=1e-6, atol=1e-7)
    assert abs(float(ours.mean())) < 4e-3 and abs(float(ours.std()) - 1) < 3e-3 and float(jnp.max(jnp.abs(ours))) > 4.5


def test_a_batch_of_draws_has_the_bits_of_its_samples():
    """Loops of any length, alone or beside other work, which decides what a compiler vectorises and fuses."""
    batch = lambda keys, shape: jax.vmap(lambda key: normal(key, shape))(keys)
    for tokens, channels in ((20, 3), (33, 4)):
        whole = np.asarray(batch(KEYS, (tokens, channels)))
        beside = jax.jit(lambda keys, shape=(tokens, channels): batch(keys, shape) * 2 + 1)(KEYS)
        np.testing.assert_array_equal(beside, whole * 2 + 1)
        part = batch(KEYS[3:5], (1 + tokens // 2, channels))
        np.testing.assert_array_equal(part, whole[3:5, : 1 + tokens // 2])
