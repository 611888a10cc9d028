"""The masked loss on hand-made numbers, and buckets that only count what fell into them."""

import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.training.dit.losses import bucket_names, masked_loss, sigma_buckets


def test_loss_averages_over_selected_tokens_only():
    prediction = jnp.zeros((3, 4, 2))
    target = jnp.arange(4.0)[None, :, None] * jnp.ones((3, 4, 2))
    mask = jnp.array([[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_allclose(masked_loss(prediction, target, mask), [14 / 4, 4, 0])


def test_unselected_and_reference_tokens_never_enter():
    prediction = jnp.full((1, 5, 2), jnp.nan).at[:, 3].set(2.0)  # one leading reference token
    mask = jnp.array([[False, False, False, True, False]])
    assert float(masked_loss(prediction, jnp.ones((1, 4, 2)), mask)[0]) == 1


def test_loss_is_float32_for_bfloat16_predictions():
    loss = masked_loss(jnp.ones((1, 2, 2), jnp.bfloat16), jnp.zeros((1, 2, 2)), jnp.ones((1, 2), bool))
    assert loss.dtype == jnp.float32


def test_buckets():
    means, counts = sigma_buckets(jnp.array([0.0, 0.25, 0.3, 1.0]), jnp.array([1.0, 2.0, 4.0, 8.0]))
    assert counts.tolist() == [1, 2, 0, 1]
    assert means.tolist() == [1, 3, 0, 8]
    assert bucket_names()[1] == "train/loss_sigma_0.25-0.50"
    with pytest.raises(UserError, match="increasing"):
        sigma_buckets(jnp.zeros(1), jnp.zeros(1), (0.5, 0.5))
