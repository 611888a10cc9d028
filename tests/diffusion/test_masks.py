"""Masks of pixels and seconds as masks of latent cells."""

import numpy as np
import pytest

from ltx_jax.diffusion import masks
from ltx_jax.errors import UserError


def test_a_picture_holds_for_every_frame():
    picture = np.zeros((1, 16, 16, 3), np.float32)
    picture[:, :, 8:] = 1
    kept = masks.latent_mask(picture, (3, 2, 2), (4, 8, 8))
    np.testing.assert_array_equal(kept, np.broadcast_to([0, 1], (3, 2, 2)))


def test_frames_are_grouped_from_frame_zero():
    frames = np.zeros((9, 8, 8, 3), np.float32)
    frames[4] = 1  # second group of four, though the VAE's causal groups would put it into the first
    np.testing.assert_array_equal(masks.latent_mask(frames, (3, 1, 1), (4, 8, 8)).ravel(), [0, 1, 0])


def test_waveforms_count_by_amplitude():
    wave = np.array([[0.9, -0.9, 0.1, 0.1], [0.9, -0.9, 0.1, 0.1]], np.float32)
    np.testing.assert_array_equal(masks.audio_mask(wave, 2), [1, 0])
    np.testing.assert_array_equal(masks.audio_mask(np.array([0.0, 1.0]), 4), [0, 0, 1, 1])


def test_weights_of_references_are_means():
    mask = np.zeros((1, 5, 4, 4), np.float32)
    mask[:, 1:3] = 1
    np.testing.assert_allclose(masks.token_weights(mask, (3, 1, 1)), [[0, 1, 0]])
    np.testing.assert_allclose(masks.token_weights(mask, (2, 2, 2))[0, 4:], 0.5)
    with pytest.raises(UserError, match="does not divide"):
        masks.token_weights(mask, (4, 1, 1))


@pytest.mark.parametrize("seed", range(5))
def test_masks_of_any_size_keep_all_nothing_and_every_mean(seed):
    """A mask of one value stays it, whatever its size; the mean of weights is that of a mask that divides evenly."""
    rng = np.random.default_rng(seed)
    grid, cell = tuple(rng.integers(1, 5, 3).tolist()), (4, 8, 8)
    frames, height, width = rng.integers(1, 40, 3)
    for value in (0.0, 1.0):
        clip = np.full((1 + (grid[0] - 1) * 4, height, width, 3), value, np.float32)
        whole = masks.latent_mask(clip, grid, cell)
        assert whole.shape == grid and (whole == value).all()
        assert (masks.audio_mask(np.full((2, frames), value, np.float32), 7) == value).all()
        np.testing.assert_allclose(masks.token_weights(clip[None, ..., 0], grid), value, atol=1e-5)
    even = rng.random((2, 1, 3 * grid[1], 5 * grid[2]), np.float32)
    weights = masks.token_weights(even, (1, *grid[1:]))
    assert weights.min() >= 0 and weights.max() <= 1
    np.testing.assert_allclose(weights.mean(axis=1), even.mean(axis=(1, 2, 3)), rtol=1e-4)


def test_lengths_are_cut_or_filled_with_zeros():
    latents = np.ones((1, 5, 2, 3))
    assert masks.conform_length(latents, 3).shape == (1, 3, 2, 3)
    longer = masks.conform_length(latents, 7)
    assert longer.shape == (1, 7, 2, 3) and not longer[:, 5:].any()
