"""The toy world: reproducible, inside its walls, and heard when it is seen."""

import numpy as np
import pytest

from ltx_jax.data.raw.toyworld import COLORS, SIZES, ToyWorldConfig, caption_corpus, render
from ltx_jax.errors import UserError


def test_a_clip_is_a_function_of_seed_and_number():
    first, again, other = render(1, 5), render(1, 5), render(2, 5)
    np.testing.assert_array_equal(first.video, again.video)
    np.testing.assert_array_equal(first.audio, again.audio)
    assert first.caption == again.caption and not np.array_equal(first.video, other.video)
    assert first.video.shape == (17, 32, 32, 3) and first.audio.shape == (2, 34000)


@pytest.mark.parametrize("number", range(6))
def test_what_is_told_is_what_is_seen(number):
    clip = render(3, number)
    for color, shape, size, place in zip(
        clip.truth.colors, clip.truth.shapes, clip.truth.sizes, clip.truth.positions, strict=True
    ):
        assert color in clip.caption and shape in clip.caption
        radius = SIZES[size]
        assert (place > radius - 0.03).all() and (place < 1 - radius + 0.03).all()
    last = len(clip.truth.colors) - 1  # drawn on top
    x, y = (clip.truth.positions[last, 0] * 32).astype(int)
    np.testing.assert_array_equal(clip.video[0, y, x], COLORS[clip.truth.colors[last]])


def test_the_sound_rises_at_a_bounce():
    clip = next(c for c in (render(0, i) for i in range(50)) if c.truth.bounces and c.truth.bounces[0].time > 0.3)
    start = int(clip.truth.bounces[0].time * 16000)
    before, after = np.abs(clip.audio[:, : start - 8]).max(), np.abs(clip.audio[:, start : start + 800]).max()
    assert after > 5 * before


def test_captions_are_short_and_often_plain():
    captions = caption_corpus(100)
    assert max(map(len, captions)) < 140
    assert sum(len(c.split()) == 3 for c in captions) > 20


def test_bad_worlds_are_refused():
    with pytest.raises(UserError):
        ToyWorldConfig(size=4)
