"""The width of edges: as sharp as the world draws them, wider by a known blur, and blind to a wrong place."""

import numpy as np
import pytest
from scipy import ndimage

from ltx_jax.data.raw.toy.vocabulary import SHAPES
from ltx_jax.data.raw.toy.world import Scene, WorldConfig, render
from ltx_jax.evaluation.fidelity import edge_width

CONFIG = WorldConfig(frames=5)


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_as_wide_as_they_are(shape):
    clip = render(3, 1, CONFIG, Scene(("white",), (shape,), ("big",), "black"))
    width = lambda change: edge_width([clip], [change(clip.video)])
    sharp = width(lambda video: video)
    assert 1.0 < sharp < 1.6  # a pixel, and what reading between pixels adds
    blurred = width(lambda video: ndimage.gaussian_filter(video.astype(np.float32), (0, 1.2, 1.2, 0)))
    assert blurred == pytest.approx(np.hypot(sharp, 2.563 * 1.2), rel=0.15)  # of a normal's share from 10 to 90%
    assert width(lambda video: np.roll(video, 1, axis=2)) == pytest.approx(sharp, rel=0.2)
    assert width(lambda video: video // 2) == np.inf  # it never gets to 90% of its colour
