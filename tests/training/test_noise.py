"""Mixtures of modes: each sample is what its own mode makes of it, and shares follow their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.training import modes
from ltx_jax.training.dit import noise

GRID, BATCH, CHANNELS, TOKENS = (4, 2, 2), 6, 3, 16
GRIDS = {"video": GRID, "audio": (TOKENS, 1, 1)}
STILLS = noise.KeyFrames(jnp.full((BATCH, 8, CHANNELS), 5.0), jnp.tile(jnp.array([12, 0]), (BATCH, 1)), TOKENS + 4)
REFERENCE = jnp.full((BATCH, 4, CHANNELS), 7.0)


def every_stream(modality):
    """The noised stream of every declared mode, None where a mode has none; all from the same draws."""
    x0 = jax.random.normal(jax.random.key(1), (BATCH, TOKENS, CHANNELS))
    keys = jax.random.split(jax.random.key(2), BATCH)
    draws = noise.draw(keys, 2, TOKENS, CHANNELS)
    grid = GRIDS[modality]
    masks = dict.fromkeys(("video_masks", "audio_masks"), noise.draw_masks(keys, grid))
    streams = []
    for mode in modes.MODES.values():
        own = modes.fit_mode(mode, GRIDS, (32, 32), None, None).stream(modality)
        options = {"masks": masks, "reference": REFERENCE, "keyframes": STILLS}
        streams.append(None if own is None else noise.noise_stream(own, x0, draws, grid, **options))
    return streams


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_mixture_gives_each_sample_its_mode(modality):
    streams = every_stream(modality)
    for first in range(0, len(streams), BATCH):
        choice = np.minimum(first + np.arange(BATCH), len(streams) - 1)
        mixed = jax.jit(noise.mix)(streams, jnp.asarray(choice))
        for row, number in enumerate(choice):
            own = streams[number]
            assert bool(mixed.present[row]) == (own is not None)
            if own is None:
                assert not mixed.loss_mask[row].any() and not mixed.latent[row].any()
                continue
            count = own.latent.shape[1]
            length = TOKENS if own.length is None else int(own.length[row])
            assert int(mixed.length[row]) == length
            np.testing.assert_array_equal(mixed.latent[row, :length], own.latent[row, :length])
            index = np.zeros(count, int) if own.level_index is None else own.level_index[row]
            levels = mixed.levels[row][mixed.level_index[row]]
            np.testing.assert_array_equal(levels[:length], np.asarray(own.levels[row])[index][:length])
            places = np.arange(length) if own.place is None else own.place[row][:length]
            assert mixed.place is None or np.array_equal(mixed.place[row][:length], places)
            wanted = np.zeros(TOKENS, bool) if own.loss_mask is None else own.loss_mask[row]
            np.testing.assert_array_equal(mixed.loss_mask[row], wanted)


def test_one_still_or_more_stand_at_the_places_of_their_frames():
    """Two stills of four tokens come with each clip; behind the clip the tables know 4 tokens of something else."""
    mode = modes.StreamMode(conditions=(modes.Condition("keyframes", 0.5),))
    draws = noise.Draws(*(jnp.zeros(4),) * 3, noise=jnp.ones((4, TOKENS, CHANNELS)),
                        conditions=(jnp.array([0.2, 0.3, 0.5, 0.9]),))  # fmt: skip
    stills = jax.tree.map(lambda x: x[:4], STILLS)
    stream = noise.noise_stream(mode, jnp.zeros((4, TOKENS, CHANNELS)), draws, GRID, keyframes=stills)
    assert stream.length.tolist() == [TOKENS + 4, TOKENS + 8, TOKENS, TOKENS]
    assert stream.place[0].tolist() == [*range(TOKENS), *range(68, 72), *range(20, 24)]  # 68 = 20 + 12 * 4
    np.testing.assert_array_equal(stream.latent[:, TOKENS:], stills.tokens)
    assert not np.take_along_axis(np.asarray(stream.levels), np.asarray(stream.level_index), 1)[:, TOKENS:].any()


def test_a_skipped_reference_is_padding():
    mode = modes.StreamMode(conditions=(modes.Condition("reference", 0.5, latents_dir="r"),))
    draws = noise.draw(jax.random.split(jax.random.key(0), BATCH), 1, TOKENS, CHANNELS)
    stream = noise.noise_stream(mode, jnp.zeros((BATCH, TOKENS, CHANNELS)), draws, GRID, reference=REFERENCE)
    used = np.asarray(draws.conditions[0]) < 0.5
    assert used.any() and not used.all()
    np.testing.assert_array_equal(stream.length, np.where(used, TOKENS + 4, TOKENS))


def test_shares_follow_the_weights():
    chosen = np.asarray(noise.choose(jax.random.split(jax.random.key(0), 4000), [1.0, 3.0]))
    assert abs(chosen.mean() - 0.75) < 0.03 and set(chosen) == {0, 1}


def test_drawn_masks_leave_a_box():
    masks = noise.draw_masks(jax.random.split(jax.random.key(0), 50), (3, 4, 8)).reshape(50, 3, 4, 8)
    assert (masks == masks[:, :1]).all()  # the same in all frames
    assert all(0 < m.sum() < m.size for m in masks)
    audio = noise.draw_masks(jax.random.split(jax.random.key(0), 50), (20, 1, 1))
    assert all(4 <= (1 - m).sum() <= 16 and np.abs(np.diff(m)).sum() <= 2 for m in audio)


def test_mixtures_are_parsed_and_fitted_with_sentences():
    shares = modes.parse_mixture(("text_to_video:3", "text_to_audio"))
    assert [(s.name, s.weight) for s in shares] == [("text_to_video", 3.0), ("text_to_audio", 1.0)]
    for entries, words in [
        (("text_to_vdeo",), "no training mode"),
        (("text_to_video:none",), "positive number"),
        (("text_to_video", "text_to_video:2"), "once"),
    ]:
        with pytest.raises(UserError, match=words):
            modes.parse_mixture(entries)
    prefix = modes.fit_mode(modes.MODES["video_prefix"], GRIDS, (32, 32), None, None)
    assert prefix.video.conditions[0].temporal_boundary == 2  # half of the clip
    with pytest.raises(UserError, match="temporal_boundary"):
        modes.fit_mode(modes.MODES["video_prefix"], GRIDS, (32, 32), 4, None)


def test_official_blocks_name_the_same_modes():
    block = {"name": "flexible", "video": {"is_generated": True, "latents_dir": "latents"}, "audio": None}
    assert modes.mode_from_official(block) == modes.MODES["text_to_video_silent"]
    legacy = modes.mode_from_official({"with_audio": True})
    assert legacy.shared_sigma and legacy.video.conditions[0].clips_only
    with pytest.raises(UserError, match="no training strategy"):
        modes.mode_from_official({"name": "other"})
