"""Canvases hold whole segments, and the tiles of a temporal round make every latent frame once."""

import numpy as np
import pytest

from ltx_jax.diffusion import dfr
from ltx_jax.errors import UserError


@pytest.mark.parametrize("frames", range(1, 258, 8))
def test_canvases_are_whole_segments_and_as_short_as_can_be(frames):
    canvas = dfr.canvas(frames)
    assert canvas.frames >= frames and (canvas.frames - 1) % canvas.segment == 0
    assert all(-(frames - 1) % s >= canvas.frames - frames for s in (24, 32))
    assert not canvas.positions or canvas.positions[-1] == canvas.frames - 1


def test_equal_padding_takes_the_longer_segment():
    assert dfr.canvas(97).segment == 32  # 96 is a multiple of both


@pytest.mark.parametrize("frames", [25, 33, 97, 121, 241])
def test_rounds_make_every_frame_once_and_hold_what_lies_between(frames):
    anchors = dfr.canvas(frames).positions
    for count in (2, 4):
        anchors = dfr.doubled(anchors)
        tiles = dfr.round_tiles(anchors, count)
        made = [range(t.latents[0] + t.drop, t.latents[1]) for t in tiles]
        assert [f for frames in made for f in frames] == list(range(anchors[-1] // 8 + 1))
        latents = [np.arange(*t.latents)[None, :, None] for t in tiles]
        np.testing.assert_array_equal(dfr.stitched(tiles, latents)[0, :, 0], np.arange(anchors[-1] // 8 + 1))
        for tile in tiles:
            assert all(tile.pixels[0] <= a <= tile.pixels[1] for a in (*tile.anchors, *tile.slots))
        after = dfr.next_anchors(tiles, anchors)
        assert list(after) == sorted({*anchors, *(s for t in tiles for s in t.slots)})
        assert all((after[a] == -1) == (a in anchors) for a in after)
        anchors = tuple(after)


def test_slots_of_two_tiles_are_the_earlier_ones():
    anchors = dfr.doubled(dfr.canvas(97).positions)
    tiles = dfr.round_tiles(anchors, 2)
    shared = set(tiles[0].slots) & set(tiles[1].slots)
    assert shared and all(dfr.next_anchors(tiles, anchors)[slot] == 0 for slot in shared)


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="at least one anchor"):
        dfr.round_tiles((), 2)
    with pytest.raises(UserError, match="at least one frame"):
        dfr.canvas(0)
