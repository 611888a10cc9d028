"""The toy world: reproducible, exact, inside its walls, heard when it is seen, and honest about what it withholds."""

import itertools

import numpy as np
import pytest

from ltx_jax.data.config import DataConfig
from ltx_jax.data.raw.source import open_source
from ltx_jax.data.raw.toy.motion import APART, BETWEEN
from ltx_jax.data.raw.toy.picture import coverage
from ltx_jax.data.raw.toy.vocabulary import (
    BACKGROUNDS,
    COLORS,
    OVERTONES,
    PITCHES,
    SHAPES,
    SIZES,
    UNSEEN_BODIES,
    UNSEEN_SCENES,
    is_unseen,
)
from ltx_jax.data.raw.toy.world import Scene, WorldConfig, caption_corpus, render
from ltx_jax.errors import UserError

SMALL = WorldConfig(32, 32)
CLIPS = [render(3, number, SMALL) for number in range(60)]


def test_a_clip_is_a_function_of_seed_and_number():
    first, again, other = render(1, 5), render(1, 5), render(2, 5)
    np.testing.assert_array_equal(first.video, again.video)
    np.testing.assert_array_equal(first.audio, again.audio)
    assert first.caption == again.caption and not np.array_equal(first.video, other.video)
    assert first.video.shape == (25, 64, 64, 3) and first.audio.shape == (2, 32000)


def test_the_world_need_not_be_square():
    clips = (render(0, number, WorldConfig(96, 48)) for number in range(50))
    clip = next(clip for clip in clips if clip.truth.positions[0, :, 0].max() > 1.2)
    assert clip.video.shape == (25, 48, 96, 3)
    place = (clip.truth.positions[-1, 0] * 48).astype(int)
    np.testing.assert_array_equal(clip.video[0, place[1], place[0]], COLORS[clip.truth.scene.colors[-1]])


def test_bodies_are_drawn_where_they_are_and_stay_inside():
    for clip in CLIPS:
        for body, (color, size) in enumerate(zip(clip.truth.scene.colors, clip.truth.scene.sizes, strict=True)):
            places, radius = clip.truth.positions[body], SIZES[size]
            assert (places > radius - 1e-6).all() and (places < 1 - radius + 1e-6).all()
            for frame in (0, 12, 24):
                x, y = (places[frame] * 32).astype(int)
                np.testing.assert_array_equal(clip.video[frame, y, x], COLORS[color])


def test_bounces_are_exact_and_apart():
    """Between bounces centres move in straight lines; at each one the centre is a radius away from what it hits."""
    times = np.arange(25) / 12.5
    for clip in CLIPS:
        truth = clip.truth
        radii = [SIZES[size] for size in truth.scene.sizes]
        for body, place in enumerate(truth.positions):
            hits = np.array([b.time for b in truth.bounces if b.body == body])
            assert (np.diff(np.concatenate([[0], hits, [2]])) > APART - 1e-9).all()
            step = np.diff(np.digitize(times, hits))
            straight = (step[1:] == 0) & (step[:-1] == 0)
            assert np.abs(np.diff(place, 2, axis=0)[straight]).max(initial=0) < 1e-9
            for bounce in (b for b in truth.bounces if b.body == body and b.against in ("left", "right")):
                after = np.searchsorted(times, bounce.time)
                slope = (place[after + 1, 0] - place[after, 0]) * 12.5
                x = place[after, 0] - slope * (times[after] - bounce.time)
                assert min(abs(x - radii[body]), abs(x - 1 + radii[body])) < 1e-6
        moments = sorted({b.time for b in truth.bounces})
        assert (np.diff(moments) > BETWEEN - 1e-9).all()


def test_bodies_meet_where_their_circles_touch():
    met = [(c, b) for c in CLIPS for b in c.truth.bounces if b.against == "shape" and b.body == 0]
    assert met
    for clip, bounce in met:
        apart = np.linalg.norm(clip.truth.positions[0] - clip.truth.positions[1], axis=-1)
        near = apart[int(bounce.time * 12.5)]
        assert apart.min() > sum(SIZES[s] for s in clip.truth.scene.sizes) - 1e-9
        assert near < sum(SIZES[s] for s in clip.truth.scene.sizes) + 1.5 / 12.5


def test_a_tone_begins_within_a_millisecond_of_its_bounce():
    clips = [c for c in CLIPS if len({b.time for b in c.truth.bounces}) == 1]
    assert len(clips) > 10
    for clip in clips:
        start, loud = clip.truth.bounces[0].time * 16000, np.abs(clip.audio).max(0)
        heard = np.argmax(loud > 0.02)
        assert loud[: int(start)].max() < 0.02 and 0 <= heard - start <= 16 * 3  # the wave itself rises from zero
        assert loud[heard : heard + 32].max() > 0.05


def test_coverage_is_exact_to_a_percent():
    """Of every shape, turned anyhow: the covered pixels add up to its area."""
    areas = {"circle": np.pi, "square": 2.0, "triangle": 27**0.5 / 4, "diamond": 1.0}
    x, y = np.meshgrid(np.arange(-12, 13) + 0.3, np.arange(-12, 13) - 0.2)
    for shape, angle in itertools.product(SHAPES, (0.0, 0.3, 1.1)):
        covered = coverage(shape, x, y, np.array(angle), 9.0).sum()
        assert abs(covered / (areas[shape] * 81) - 1) < 0.015, shape


def test_training_clips_show_no_combination_that_is_kept():
    for clip, unseen in itertools.product(range(200), (False, True)):
        scene = render(1, clip, WorldConfig(16, 16, 1, combinations="unseen" if unseen else "seen")).truth.scene
        pairs = set(zip(scene.colors, scene.shapes, strict=True)) & UNSEEN_BODIES
        kept = pairs or {(s, scene.background) for s in scene.sizes} & UNSEEN_SCENES
        assert bool(kept) == unseen == scene.unseen
    assert set(itertools.product(COLORS, SHAPES)) >= UNSEEN_BODIES
    assert set(itertools.product(SIZES, BACKGROUNDS)) >= UNSEEN_SCENES
    assert not is_unseen(("red",), ("circle",), ("",), "black")


def test_no_pitch_is_an_overtone_and_no_two_colours_sound_alike():
    overtones = {pitch * number for pitch in PITCHES.values() for number in range(2, 6)}
    assert not set(PITCHES.values()) & overtones
    assert len(set(OVERTONES.values())) == len(COLORS) and set(PITCHES) == set(SHAPES)


def test_captions_say_what_there_is():
    for clip in CLIPS:
        scene = clip.truth.scene
        assert all(c in clip.caption and s in clip.caption for c, s in zip(scene.colors, scene.shapes, strict=True))
        assert "background" not in clip.caption or scene.background in clip.caption
    captions = caption_corpus(200)
    assert max(map(len, captions)) < 150
    assert 0.25 < np.mean(["background" not in c for c in captions]) < 0.55


def test_a_scene_can_be_asked_for():
    scene = Scene(("green", "red"), ("circle", "square"), ("small", ""), "navy")
    clip = render(0, 1, SMALL, scene)
    assert clip.truth.scene == scene and scene.unseen and "green circle" in clip.caption


def test_the_config_chooses_the_world():
    exact = open_source(DataConfig(world="exact", width=48, height=32, frames=9, fps=12.5))
    first = open_source(DataConfig())
    assert exact.item(0, 0)["video"].shape == (9, 32, 48, 3) and first.item(0, 0)["video"].shape == (17, 32, 32, 3)
    assert exact.fingerprint != first.fingerprint


def test_bad_worlds_are_refused():
    for bad in ({"width": 8}, {"frames": 0}, {"fps": 0.0}, {"width": 512, "height": 64}):
        with pytest.raises(UserError):
            WorldConfig(**bad)
