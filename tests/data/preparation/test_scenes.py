"""Cuts are found, motion is none."""

import itertools

import numpy as np

from ltx_jax.data.preparation.scenes import scene_starts
from ltx_jax.data.raw.toyworld import render

FPS = 8


def timed(video):
    return [(i / FPS, picture) for i, picture in enumerate(video)]


def test_motion_is_no_cut():
    assert all(scene_starts(timed(render(0, i).video)) == [0.0] for i in range(20))


def test_most_cuts_between_clips_are_found_where_they_are():
    clips = [render(2, i).video for i in range(21)]
    pairs = itertools.pairwise(clips)
    found = [scene_starts(timed(np.concatenate(pair))) for pair in pairs]
    assert sum(starts == [0.0, 17 / FPS] for starts in found) >= 18


def test_scenes_have_a_shortest_length():
    flicker = np.stack([np.full((4, 4, 3), 255 * (i // 3 % 2), np.uint8) for i in range(30)])
    starts = scene_starts(timed(flicker), ratio=0, shortest=1.0)
    assert len(starts) > 1 and min(np.diff(starts)) >= 1.0
    assert scene_starts([]) == []
