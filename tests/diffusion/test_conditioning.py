"""Which tokens are held, how noise and clean content mix, and that noise belongs to a sample alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion import conditioning as c
from ltx_jax.errors import UserError

GRID = (3, 2, 2)


def state(batch=2, channels=4):
    tokens = jnp.zeros((batch, 12, channels))
    return c.initial_state(tokens, np.zeros((batch, 3, 12, 2), np.float32), GRID, video=True)


def test_selections_count_whole_frames():
    assert c.select_frames(GRID, 0, 1).tolist() == [True] * 4 + [False] * 8
    assert c.select_suffix(GRID, 2).tolist() == [False] * 4 + [True] * 8
    assert c.select_suffix(GRID, 9).all() and c.select_frames(GRID, 0, 9).all()


def test_crop_rounds_down_and_repeats_over_frames():
    crop = c.select_crop((2, 2, 3), (16, 32, 67, 320), (32, 32)).reshape(2, 2, 3)
    np.testing.assert_array_equal(crop, np.array([[[False, True, True]] * 2] * 2))


def test_held_tokens_start_clean_and_the_rest_as_noise():
    frame = jnp.full((2, 4, 4), 5.0)
    held = c.LatentAtIndex(frame, index=1).apply(state())
    noise = jnp.ones((2, 12, 4))
    noised = c.add_state_noise(held, noise).latent
    np.testing.assert_array_equal(noised[:, 4:8], frame)
    np.testing.assert_array_equal(noised[:, 8:], noise[:, 8:])
    np.testing.assert_array_equal(held.latent, 0)  # items do not touch the latent


def test_frozen_state_holds_everything():
    frozen = c.freeze(state())
    assert frozen.frozen and not frozen.mask.any()


def test_items_that_do_not_fit_are_refused():
    for tokens, index in [(jnp.zeros((2, 3, 4)), 0), (jnp.zeros((2, 4, 4)), 3), (jnp.zeros((2, 4, 5)), 0)]:
        with pytest.raises(UserError, match="does not fit"):
            c.LatentAtIndex(tokens, index).apply(state())


def test_a_longer_bucket_or_another_batch_keeps_a_samples_noise():
    keys = jax.random.split(jax.random.key(0), 3)
    noise = c.draw_noise(keys, 20, 4)
    np.testing.assert_array_equal(c.draw_noise(keys, 33, 4)[:, :20], noise)
    np.testing.assert_array_equal(c.draw_noise(keys[1:2], 20, 4)[0], noise[1])
    assert abs(float(noise.mean())) < 0.3 and abs(float(noise.std()) - 1) < 0.2


def test_levels_give_back_the_mask():
    mask = np.array([[1, 0, 0.4, 1], [1, 1, 1, 1]], np.float32)[..., None]
    levels, index = c.distinct_levels(mask)
    np.testing.assert_array_equal(np.take_along_axis(levels, index, axis=1), mask[..., 0])
    assert levels.shape == (2, 3)
    one, none = c.distinct_levels(mask[1:])
    assert one.shape == (1, 1) and none is None
    assert c.distinct_levels(mask[1:], minimum=2)[0].shape == (1, 2)
