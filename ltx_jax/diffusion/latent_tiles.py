"""Latents in overlapping tiles: where they lie, which tokens each one sees, how their tokens blend (sampling.md 12.13).

Everything is made on the host. Letters: B batch, T tokens of the target, N with appended ones, K tokens of a tile.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from ltx_jax.errors import require
from ltx_jax.splits import Interval, by_count, trapezoid

Grid = tuple[int, int, int]
Counts = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # (tiles, overlap in cells) of frames, rows, columns

SPACE_OVERLAP = 5  # cells that neighbours share where stage two is split over devices
AXES = ("frames", "rows", "columns")


@dataclasses.dataclass(frozen=True)
class LatentTile:
    """One tile. region: cells [start, stop) of frames, rows and columns. weights: float32 of the region's shape, by
    which its tokens are multiplied before tiles are added; those of all tiles sum to 1."""

    region: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    weights: np.ndarray

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The region as an index into arrays (F, H, W, ...)."""
        frames, rows, columns = (slice(*bounds) for bounds in self.region)
        return frames, rows, columns

    def tokens(self, grid: Grid) -> np.ndarray:
        """Its tokens among those of the target (K,), in their order."""
        return np.arange(math.prod(grid)).reshape(grid)[self.slices].ravel()


def latent_tiles(grid: Grid, counts: Counts) -> list[LatentTile]:
    """The tiles of a latent, frames outermost. Raises UserError for more tiles or overlap than an axis has cells."""
    axes = []
    for name, size, (count, overlap) in zip(AXES, grid, counts, strict=True):
        require(
            1 <= count <= size and overlap >= 0 and (count == 1 or overlap <= size - count),
            f"{size} latent {name} cannot be cut into {count} tiles that share {overlap}: use fewer, or a smaller "
            "overlap.",
        )
        axes.append(by_count(size, count, overlap if count > 1 else 0))
    return [LatentTile(_region(parts), _weights(parts)) for parts in itertools.product(*axes)]


def fitting(grid: Grid, counts: Counts) -> Counts:
    """The counts and overlaps, reduced where an axis has too few cells: less overlap, or a single tile."""
    fit = lambda size, count, overlap: (1, 0) if size < count else (count, min(overlap, size - count))
    frames, rows, columns = (fit(size, *pair) for size, pair in zip(grid, counts, strict=True))
    return frames, rows, columns


def over_devices(grid: Grid, devices: int) -> Counts:
    """Spatial tiles for so many devices: as square as can be, not more rows than columns, reduced where cells lack."""
    rows = max(n for n in range(1, math.isqrt(devices) + 1) if devices % n == 0)
    return fitting(grid, ((1, 0), (rows, SPACE_OVERLAP), (devices // rows, SPACE_OVERLAP)))


def token_indices(tile: LatentTile, grid: Grid, positions: np.ndarray) -> np.ndarray:
    """Which tokens of a state the tile sees, int32 (K,): its own, then appended ones.

    positions: float32 (B, 3, N, 2), those of the first sample count. An appended token is seen where its bounds
    overlap the tile's in all three axes, and everywhere if it starts before time 0.
    """
    own, bounds = tile.tokens(grid), positions[0]  # (3, N, 2)
    start, end = bounds[:, own, 0].min(axis=1), bounds[:, own, 1].max(axis=1)  # (3,)
    appended = bounds[:, math.prod(grid) :]
    overlaps = (appended[..., 0] < end[:, None]) & (appended[..., 1] > start[:, None])
    seen = overlaps.all(axis=0) | (appended[0, :, 0] < 0)
    return np.append(own, math.prod(grid) + np.flatnonzero(seen)).astype(np.int32)


def tile_positions(positions: np.ndarray, indices: np.ndarray, own: int) -> np.ndarray:
    """Positions (B, 3, K, 2) of a tile's tokens, so that the first `own`, those of the target, start at 0."""
    chosen = positions[:, :, indices]
    return chosen - chosen[:, :, :own, :1].min(axis=2, keepdims=True)


def token_weights(tiles: Sequence[LatentTile], indices: Sequence[np.ndarray], grid: Grid) -> list[np.ndarray]:
    """What each tile's tokens count in the whole, float32 (K,) of each: weights of its own ones, and an equal share of
    every appended one among the tiles that see it."""
    target = math.prod(grid)
    tokens = max(int(index.max()) for index in indices) + 1
    seen = np.bincount(np.concatenate(list(indices)), minlength=tokens)
    shares = lambda index: (1 / seen[index[index >= target]]).astype(np.float32)
    return [np.append(tile.weights.ravel(), shares(index)) for tile, index in zip(tiles, indices, strict=True)]


def _region(parts: Sequence[Interval]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    frames, rows, columns = ((part.start, part.end) for part in parts)
    return frames, rows, columns


def _weights(parts: Sequence[Interval]) -> np.ndarray:
    frames, rows, columns = (trapezoid(part.length, part.left, part.right, zero_start=False) for part in parts)
    return frames[:, None, None] * rows[:, None] * columns
