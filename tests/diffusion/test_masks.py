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


def test_lengths_are_cut_or_filled_with_zeros():
    latents = np.ones((1, 5, 2, 3))
    assert masks.conform_length(latents, 3).shape == (1, 3, 2, 3)
    longer = masks.conform_length(latents, 7)
    assert longer.shape == (1, 7, 2, 3) and not longer[:, 5:].any()
