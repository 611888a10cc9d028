"""The neighbourhood attention layer: how heads divide among the axes, and that only relative positions count."""

import numpy as np
import pytest
from drawn import drawn_params

from ltx_jax.models.video_vae.neighbourhood import NeighbourhoodAttention, rope_split


@pytest.mark.parametrize(("width", "split"), [(64, (16, 24, 24)), (16, (4, 6, 6)), (32, (8, 12, 12)), (8, (0, 4, 4))])
def test_channels_of_a_head_per_axis(width, split):
    assert rope_split(width) == split
    assert sum(split) == width and all(size % 2 == 0 for size in split)


def test_a_cell_away_from_borders_does_not_know_where_the_grid_begins():
    layer = NeighbourhoodAttention((1, 3, 3), head_dim=16)
    x = np.random.default_rng(0).normal(size=(1, 2, 8, 8, 32)).astype(np.float32)
    params = drawn_params(layer, x)
    whole, part = (layer.apply({"params": params}, y) for y in (x, x[:, :, 2:, 1:]))
    np.testing.assert_allclose(whole[:, :, 3:-1, 2:-1], part[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)
