"""Appended tokens, slots, masks, regions and groups on states."""

import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion import conditioning as c
from ltx_jax.diffusion import geometry, items
from ltx_jax.errors import UserError

GRID = (3, 2, 2)


def state(batch=2, channels=4):
    positions = geometry.video_positions(*GRID, 24.0, batch=batch)
    return c.initial_state(jnp.zeros((batch, 12, channels)), positions, GRID, video=True)


def beside(frame=5, strength=1.0, count=4):
    positions = geometry.keyframe_positions((1, 2, count // 2), frame, 24.0)
    return items.Appended(jnp.full((2, count, 4), 3.0), positions, strength)


def test_appended_tokens_stand_at_the_end_and_are_cleared():
    after = beside(strength=0.75).apply(state())
    assert after.latent.shape == (2, 16, 4) and after.positions.shape == (2, 3, 16, 2)
    np.testing.assert_array_equal(after.mask[:, 12:], 0.25)
    np.testing.assert_array_equal(after.clean[:, 12:], 3.0)
    assert not after.latent.any() and not after.keyframes[:, 12:].any()
    np.testing.assert_allclose(after.positions[0, 0, 12], [5 / 24, 6 / 24])
    assert c.clear(after).latent.shape == (2, 12, 4)


def test_slots_are_marked_and_come_back_as_frames():
    positions = np.concatenate([geometry.keyframe_positions((1, 2, 2), f, 24.0) for f in (4, 9)], axis=2)
    seeds = jnp.arange(2 * 8 * 4, dtype=jnp.float32).reshape(2, 8, 4)
    after = items.KeyframeSlots((4, 9), positions, seeds).apply(beside().apply(state()))
    assert after.keyframes[:, 16:].all() and after.mask[:, 16:].all() and after.slot_start == 16
    np.testing.assert_array_equal(items.generated_keyframes(after), seeds.reshape(2, 2, 4, 4))
    with pytest.raises(UserError, match="twice"):
        items.KeyframeSlots((4, 9), positions).apply(after)
    with pytest.raises(UserError, match="increase"):
        items.KeyframeSlots((9, 4), positions).apply(state())


def test_masks_hold_what_they_name():
    keep = np.arange(12)[None] < 5
    after = items.Masked(jnp.full((2, 12, 4), 3.0), keep).apply(beside().apply(state()))
    np.testing.assert_array_equal(after.mask[0, :12, 0], ~keep[0])
    np.testing.assert_array_equal(after.clean[0, :12, 0], 3.0 * keep[0])
    with pytest.raises(UserError, match="size of the target"):
        items.Masked(jnp.zeros((2, 16, 4)), keep).apply(state())


def test_a_region_touches_what_overlaps_it():
    after = items.TimeRegion(1 / 24, 9 / 24).apply(state())  # frame 0 ends where the region starts
    np.testing.assert_array_equal(after.mask[0, :, 0].reshape(GRID)[:, 0, 0], [0, 1, 0])
    with pytest.raises(UserError, match="before appended"):
        items.TimeRegion(0, 1).apply(beside().apply(state()))


def test_groups_see_the_target_by_their_weight_and_each_other_not_at_all():
    early = beside(1).apply(state())  # before any group: sees all
    after = items.Weighted(beside(2), 0.25).apply(early)
    after = items.Weighted(beside(3), np.array([0.0, 0.5, 1.0, 0.5])).apply(after)
    after = beside(4).apply(after)  # a group of its own once groups exist
    m = np.asarray(items.attention_weights(after))[0]
    np.testing.assert_array_equal(m, m.T)
    blocks = [slice(0, 12), slice(12, 16), slice(16, 20), slice(20, 24), slice(24, 28)]
    assert all((m[b, b] == 1).all() for b in blocks)
    assert (m[blocks[0], blocks[1]] == 1).all() and (m[blocks[0], blocks[2]] == 0.25).all()
    np.testing.assert_array_equal(m[0, blocks[3]], [0.0, 0.5, 1.0, 0.5])
    assert (m[blocks[0], blocks[4]] == 1).all()
    assert not any(m[a, b].any() for a in blocks[1:] for b in blocks[1:] if a != b)
    assert items.attention_weights(early) is None


def test_tokens_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="do not fit"):
        items.Appended(jnp.zeros((2, 4, 5)), np.zeros((1, 3, 4, 2), np.float32)).apply(state())
    with pytest.raises(UserError, match="attention weight"):
        items.Weighted(items.TimeRegion(0, 1), 0.5).apply(state())
