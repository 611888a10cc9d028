"""Sizes, positions and token order, on the spec's own examples."""

import numpy as np
import pytest

from ltx_jax.diffusion import geometry
from ltx_jax.errors import UserError


@pytest.mark.parametrize(("frames", "fps", "tokens"), [(121, 24, 126), (121, 25, 121), (97, 24, 101), (1, 24, 1)])
def test_audio_length_follows_the_clip(frames, fps, tokens):
    assert geometry.audio_length(frames, fps) == tokens


def test_audio_length_rounds_half_to_even():
    assert geometry.audio_length(1, 10) == 2  # 2.5
    assert geometry.audio_length(3, 10) == 8  # 7.5


def test_first_latent_frame_is_one_pixel_frame():
    time = geometry.video_positions(3, 1, 1, 8.0)[0, 0]
    np.testing.assert_array_equal(time * 8, [[0, 1], [1, 9], [9, 17]])


def test_audio_positions_are_contiguous_and_shifted_by_whole_tokens():
    positions = geometry.audio_positions(9)[0, 0]
    np.testing.assert_array_equal(positions[1:, 0], positions[:-1, 1])
    np.testing.assert_array_equal(geometry.audio_positions(4, shift=5)[0, 0], positions[5:])
    np.testing.assert_allclose(positions[:3], [[0, 0.01], [0.01, 0.05], [0.05, 0.09]], rtol=1e-6)


@pytest.mark.parametrize("patch", [1, 2])
def test_video_patchify_inverts(patch):
    latents = np.random.default_rng(0).normal(size=(2, 3, 4, 6, 5))
    tokens = geometry.patchify_video(latents, patch)
    assert tokens.shape == (2, 3 * 4 * 6 // patch**2, 5 * patch**2)
    np.testing.assert_array_equal(geometry.unpatchify_video(tokens, 3, 4, 6, patch), latents)


def test_audio_tokens_are_channel_major():
    latents = np.random.default_rng(0).normal(size=(2, 7, 16, 8))
    tokens = geometry.patchify_audio(latents)
    assert tokens[1, 3, 5 * 16 + 2] == latents[1, 3, 2, 5]
    np.testing.assert_array_equal(geometry.unpatchify_audio(tokens, 8), latents)


def test_positions_and_tokens_agree_on_the_order():
    grid = (2, 3, 4)
    starts = geometry.pixel_bounds(geometry.latent_bounds(*grid), (1, 1, 1))[0, :, :, 0]
    latents = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1)[None]
    np.testing.assert_array_equal(geometry.patchify_video(latents)[0], starts.T)


def test_bad_sizes_are_sentences():
    with pytest.raises(UserError, match="frame rate"):
        geometry.VideoShape(9, 32, 32, 0)
    with pytest.raises(UserError, match="patch size"):
        geometry.patchify_video(np.zeros((1, 1, 3, 3, 1)), 2)
