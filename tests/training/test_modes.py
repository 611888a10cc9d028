"""Every mode: which tokens are noisy, at which level, and which are in the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.config import from_mapping
from ltx_jax.errors import UserError
from ltx_jax.training import modes
from ltx_jax.training.dit import noise
from ltx_jax.training.dit.losses import masked_loss
from ltx_jax.training.modes import Condition, Mode, StreamMode

GRID, BATCH, CHANNELS = (3, 2, 2), 4, 5
TOKENS = 12
MASKS = {name: jnp.tile(jnp.linspace(0, 1, TOKENS), (BATCH, 1)) for name in ("video_masks", "audio_masks")}
REFERENCE = jnp.full((BATCH, 6, CHANNELS), 7.0)
STILLS = noise.KeyFrames(REFERENCE[:, :4], jnp.zeros((BATCH, 1), jnp.int32), TOKENS)
GRIDS = {"video": GRID, "audio": GRID}


def fitted(name):
    """A declared mode for clips of GRID, cells of 32 pixels."""
    return modes.fit_mode(modes.MODES[name], GRIDS, (32, 32), None, None)


def noised(mode, seed=0, **options):
    x0 = jax.random.normal(jax.random.key(7), (BATCH, TOKENS, CHANNELS))
    draws = noise.draw(jax.random.split(jax.random.key(seed), BATCH), len(mode.conditions), TOKENS, CHANNELS)
    beside = {"reference": REFERENCE if mode.reference else None, "keyframes": STILLS if mode.keyframes else None}
    arrays = {"masks": MASKS} | beside | options
    return x0, draws, jax.jit(lambda x, d, a: noise.noise_stream(mode, x, d, GRID, **a))(x0, draws, arrays)


def timesteps(stream):
    if stream.level_index is None:
        return np.broadcast_to(stream.levels, stream.latent.shape[:2])
    return np.take_along_axis(np.asarray(stream.levels), np.asarray(stream.level_index), axis=1)


@pytest.mark.parametrize("name", modes.MODES)
def test_every_mode_is_consistent(name):
    """Held tokens equal x0, have level 0 and are in no loss; the others lie on the path to the target."""
    mode = fitted(name)
    for stream_mode in filter(None, (mode.video, mode.audio)):
        x0, _, stream = noised(stream_mode)
        t = timesteps(stream)
        if not stream_mode.is_generated:
            assert stream.targets is None and stream.loss_mask is None
            np.testing.assert_array_equal(stream.latent, x0)
            assert not np.any(t) and not np.any(stream.sigma)
            continue
        own, rest = t[:, :TOKENS], t[:, TOKENS:]
        np.testing.assert_array_equal(np.asarray(stream.loss_mask), own > 0)
        np.testing.assert_allclose(stream.latent[:, :TOKENS], x0 + own[..., None] * stream.targets, atol=1e-5)
        assert not rest.any()  # a reference is clean
        np.testing.assert_array_equal(stream.latent[:, TOKENS:], REFERENCE[:, : rest.shape[1]])


def test_probabilities_zero_and_one_are_certain():
    for probability, held in [(0.0, 0), (1.0, 4)]:
        _, _, stream = noised(StreamMode(conditions=(Condition("first_frame", probability),)))
        np.testing.assert_array_equal((~np.asarray(stream.loss_mask)).sum(axis=1), held)
        assert np.all(np.asarray(stream.sigma) > 0)


def test_conditions_unite():
    both = (Condition("prefix", temporal_boundary=1), Condition("suffix", temporal_boundary=1))
    _, _, stream = noised(StreamMode(conditions=both))
    np.testing.assert_array_equal(np.asarray(stream.loss_mask)[0], [False] * 4 + [True] * 4 + [False] * 4)


def test_stored_masks_are_thresholded():
    mask = MASKS["video_masks"]
    _, _, stream = noised(StreamMode(conditions=(Condition("mask", mask_dir="masks"),)), masks={"masks": mask})
    np.testing.assert_array_equal(stream.loss_mask, mask <= 0.5)


def test_a_clip_that_is_all_given_has_loss_zero():
    _, _, stream = noised(StreamMode(conditions=(Condition("prefix", temporal_boundary=99),)))
    loss = masked_loss(jnp.ones((BATCH, TOKENS, CHANNELS)), stream.targets, stream.loss_mask)
    np.testing.assert_array_equal(loss, 0)


def test_padding_is_in_no_loss_and_does_not_change_sigma():
    lengths = jnp.array([12, 8, 12, 4])
    _, draws, stream = noised(StreamMode(), length=lengths)
    np.testing.assert_array_equal(np.asarray(stream.loss_mask).sum(axis=1), lengths)
    short = noise.noise_stream(
        StreamMode(), jnp.zeros((BATCH, 8, CHANNELS)), draws.replace(noise=draws.noise[:, :8]), (2, 2, 2)
    )
    np.testing.assert_allclose(stream.sigma[1], short.sigma[1], rtol=1e-5)


def test_draws_belong_to_a_sample():
    keys = jax.random.split(jax.random.key(3), 4)
    whole, part = noise.draw(keys, 1, 20, 3), noise.draw(keys[2:], 1, 12, 3)
    np.testing.assert_array_equal(whole.noise[2:, :12], part.noise)
    np.testing.assert_array_equal(whole.normal[2:], part.normal)
    np.testing.assert_array_equal(whole.conditions[0][2:], part.conditions[0])


def test_modes_come_from_mappings_and_mistakes_are_sentences():
    block = {"is_generated": True, "conditions": [{"type": "prefix", "temporal_boundary": 8}]}
    mode = from_mapping(Mode, {"video": block, "audio": None})
    assert mode.video.conditions[0].temporal_boundary == 8 and mode.audio is None
    for wrong, words in [
        (lambda: Mode(video=None, audio=StreamMode(is_generated=False)), "must generate"),
        (lambda: Mode(audio=StreamMode(conditions=(Condition("first_frame"),))), "video only"),
        (lambda: Mode(audio=StreamMode(conditions=(Condition("keyframes"),))), "video only"),
        (lambda: StreamMode(conditions=(Condition("keyframes"), Condition("reference", latents_dir="r"))), "one refer"),
        (lambda: Condition("prefix"), "needs 'temporal_boundary'"),
        (lambda: Condition("first_frame", temporal_boundary=2), "takes no"),
        (lambda: Condition("first_frame", 1.5), "0..1"),
    ]:
        with pytest.raises(UserError, match=words):
            wrong()
