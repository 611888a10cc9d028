"""Tiles cover the latent, their weights sum to one, and blending what was cut gives back the whole."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion import geometry
from ltx_jax.diffusion import latent_tiles as lt
from ltx_jax.diffusion.tiled import blend_tiles, stack_tiles
from ltx_jax.errors import UserError

CASES = [
    ((5, 6, 7), ((2, 2), (2, 2), (2, 3))),
    ((2, 5, 8), ((1, 0), (2, 1), (3, 2))),
    ((9, 4, 4), ((4, 1), (1, 0), (1, 3))),
    ((1, 34, 60), ((1, 0), (2, 5), (4, 5))),
]


@pytest.mark.parametrize(("grid", "counts"), CASES)
def test_weights_sum_to_one_and_neighbours_share_the_overlap(grid, counts):
    tiles, total = lt.latent_tiles(grid, counts), np.zeros(grid)
    for tile in tiles:
        total[tile.slices] += tile.weights
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert len(tiles) == np.prod([count for count, _ in counts])
    for axis, (count, overlap) in enumerate(counts):
        bounds = sorted({tile.region[axis] for tile in tiles})
        assert len(bounds) == count
        assert all(a[1] - b[0] == overlap for a, b in itertools.pairwise(bounds))
        sizes = [stop - start for start, stop in bounds]
        assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("grid", "counts"), CASES)
def test_blending_the_cut_tokens_gives_them_back(grid, counts):
    positions = np.concatenate(
        [
            geometry.video_positions(*grid, 24.0),
            geometry.keyframe_positions((1, *grid[1:]), -3, 24.0),
            geometry.keyframe_positions((1, *grid[1:]), 0, 24.0),
        ],
        axis=2,
    )
    tokens = np.random.default_rng(0).normal(size=(2, positions.shape[2], 3)).astype(np.float32)
    tiles = lt.latent_tiles(grid, counts)
    indices = [lt.token_indices(tile, grid, positions) for tile in tiles]
    weights = stack_tiles(lt.token_weights(tiles, indices, grid))
    cut = jnp.asarray(stack_tiles([tokens[:, index] for index in indices], axis=1).swapaxes(0, 1))
    parts = (stack_tiles(indices), np.array([len(index) for index in indices]))
    whole = blend_tiles(cut, *parts, weights, tokens.shape[1])
    np.testing.assert_allclose(whole, tokens, rtol=1e-5, atol=1e-6)
    before = np.prod(grid) + np.arange(grid[1] * grid[2])  # tokens before time 0 are in every tile
    assert all(np.isin(before, index).all() for index in indices)


def test_positions_of_a_tile_start_at_zero_and_keep_distances():
    grid = (5, 6, 7)
    positions = geometry.video_positions(*grid, 24.0)
    tile = lt.latent_tiles(grid, ((2, 2), (2, 2), (2, 3)))[-1]
    index = lt.token_indices(tile, grid, positions)
    moved = lt.tile_positions(positions, index, tile.weights.size)
    np.testing.assert_array_equal(moved[..., 0].min(axis=2), 0)
    np.testing.assert_allclose(moved - moved[:, :, :1], positions[:, :, index] - positions[:, :, index[:1]], atol=1e-6)


@pytest.mark.parametrize(
    ("devices", "expected"), [(1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (6, (2, 3)), (8, (2, 4)), (7, (1, 7))]
)
def test_tiles_of_devices_are_as_square_as_can_be(devices, expected):
    counts = lt.over_devices((16, 34, 60), devices)
    assert tuple(count for count, _ in counts[1:]) == expected and counts[0] == (1, 0)


def test_counts_are_reduced_where_cells_lack():
    assert lt.fitting((1, 3, 9), ((2, 8), (2, 6), (2, 6))) == ((1, 0), (2, 1), (2, 6))
    lt.latent_tiles((1, 3, 9), lt.fitting((1, 3, 9), ((2, 8), (2, 6), (2, 6))))
    with pytest.raises(UserError, match="3 latent rows cannot be cut into 2 tiles that share 6"):
        lt.latent_tiles((1, 3, 9), ((1, 0), (2, 6), (1, 0)))
