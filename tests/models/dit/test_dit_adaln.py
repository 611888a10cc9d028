import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.models.dit.block import SELECT_LEVELS, add_gated, normed, per_token
from ltx_jax.models.dit.transformer import FREQUENCIES, timestep_embedding


def test_frequencies_are_float32_constants():
    assert FREQUENCIES.shape == (128,) and FREQUENCIES.dtype == np.float32 and FREQUENCIES[0] == 1
    exact = np.exp(-np.log(10000) * np.arange(128) / 128)
    np.testing.assert_allclose(FREQUENCIES, exact, rtol=1e-6)


def test_sinusoid_puts_cosines_first():
    e = timestep_embedding(jnp.array([[0.0, 1000.0]]))
    assert e.shape == (1, 2, 256) and e.dtype == jnp.float32
    np.testing.assert_array_equal(e[0, 0], [1] * 128 + [0] * 128)
    np.testing.assert_allclose(e[0, 1, 0], np.cos(1000.0), atol=1e-4)
    np.testing.assert_allclose(e[0, 1, 128], np.sin(1000.0), atol=1e-4)


@pytest.mark.parametrize("levels", [1, 2, SELECT_LEVELS, SELECT_LEVELS + 3])
def test_rows_reach_their_tokens(levels):
    """Selecting and gathering are one function."""
    rng = np.random.default_rng(levels)
    rows = rng.standard_normal((2, levels, 4)).astype(np.float32)
    index = rng.integers(0, levels, (2, 9))
    expected = np.stack([rows[b][index[b]] for b in range(2)])
    np.testing.assert_array_equal(
        jnp.broadcast_to(per_token(jnp.asarray(rows), jnp.asarray(index)), (2, 9, 4)), expected
    )


def test_without_an_index_all_tokens_share():
    assert per_token(jnp.ones((2, 1, 4)), None).shape == (2, 1, 4)


def test_modulation_is_float32_inside_and_keeps_the_dtype():
    x = jnp.ones((1, 2, 4), jnp.bfloat16)
    fine = jnp.full((1, 1, 4), 2.0**-12)  # bfloat16 would round 1 + 2**-12 to 1
    assert normed(x, fine, fine, 1e-6).dtype == add_gated(x, x, fine).dtype == jnp.bfloat16
    assert (normed(x.astype(jnp.float32), fine, 0 * fine, 1e-6) > 1).all()
