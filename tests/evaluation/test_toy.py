"""The instruments read rendered clips, whose truth is known, correctly; only then do they judge generated ones."""

import numpy as np

from ltx_jax.data.raw.toyworld import COLORS, render
from ltx_jax.evaluation.prompts import one_shape_prompts
from ltx_jax.evaluation.toy import observe, tonality


def test_colour_motion_and_sound_of_rendered_clips():
    single = [c for c in (render(7, i) for i in range(80)) if len(c.truth.colors) == 1]
    seen = [observe(c.video, c.audio) for c in single]
    right = np.mean([o.color == c.truth.colors[0] for o, c in zip(seen, single, strict=True)])
    assert right > 0.97
    assert all(o.path > 0.2 for o in seen)
    assert np.mean([o.tonality > 0.5 for o in seen]) > 0.97


def test_an_empty_clip_has_no_colour_and_noise_is_not_tonal():
    rng = np.random.default_rng(0)
    still = np.full((5, 16, 16, 3), 70, np.uint8)
    noise = rng.normal(size=(2, 16000)).astype(np.float32) * 0.1
    observed = observe(still, noise)
    assert observed.color is None and observed.path == 0
    assert tonality(noise) < 0.5


def test_a_wrong_colour_is_noticed():
    clip = next(c for c in (render(7, i) for i in range(50)) if c.truth.colors == ("red",))
    swapped = clip.video[..., ::-1]
    assert observe(clip.video, clip.audio).color == "red"
    assert observe(swapped, clip.audio).color != "red"


def test_prompts_name_every_colour_equally_often():
    named = [color for _, color in one_shape_prompts(64)]
    assert {named.count(c) for c in COLORS} == {8}
