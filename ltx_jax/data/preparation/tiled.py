"""Encoding large videos in overlapping tiles of the picture, as the official trainer does (spec training.md 7.4).

Sampling tiles by other rules (models/tiling.py); latents that are prepared once should be those of the trainer.
"""

from collections.abc import Callable

import numpy as np

from ltx_jax.errors import require


def encode_in_tiles(
    encode: Callable[[np.ndarray], np.ndarray],
    video: np.ndarray,
    scale_factors: tuple[int, int, int],
    tile: int,
    overlap: int,
) -> np.ndarray:
    """Latents (B, F, H, W, C) float32 of a video (B, frames, h, w, 3): tiles blended with linear ramps.

    encode: video -> latents, of any size that is a multiple of the factors. A video within one tile is encoded whole,
    and so is any where tile is 0. Raises UserError as `check_tile`.
    """
    check_tile(tile, overlap, scale_factors)
    _, height, width = scale_factors
    size = video.shape[2:4]
    if tile == 0 or max(size) <= tile:
        return np.asarray(encode(video))
    total, weights = np.zeros(()), np.zeros((size[0] // height, size[1] // width), np.float32)
    for top, bottom in tile_bounds(size[0], tile, overlap, height):
        for left, right in tile_bounds(size[1], tile, overlap, width):
            latents = np.asarray(encode(video[:, :, top:bottom, left:right]), np.float32)
            rows = ramp(latents.shape[2], overlap // height, top > 0, bottom < size[0])
            columns = ramp(latents.shape[3], overlap // width, left > 0, right < size[1])
            mask = rows[:, None] * columns
            if total.ndim == 0:
                total = np.zeros((*latents.shape[:2], *weights.shape, latents.shape[-1]), np.float32)
            at = (slice(top // height, bottom // height), slice(left // width, right // width))
            total[:, :, *at] += latents * mask[..., None]
            weights[at] += mask
    return total / (weights[..., None] + np.float32(1e-8))


def check_tile(tile: int, overlap: int, scale_factors: tuple[int, int, int]) -> None:
    """Raise UserError when tile or overlap, in pixels, are no multiples of the factors; a tile of 0 is none."""
    _, height, width = scale_factors
    require(
        tile == 0 or (all(v % f == 0 for v in (tile, overlap) for f in (height, width)) and overlap < tile),
        f"Tiles of {tile} pixels with an overlap of {overlap} do not fit latent cells of {height} x {width} "
        "pixels: both must be multiples of these.",
    )


def tile_bounds(size: int, tile: int, overlap: int, cell: int) -> list[tuple[int, int]]:
    """Pixel bounds of the tiles along one side: regular steps, and one more that ends at the edge."""
    starts = list(range(0, max(1, size - overlap), tile - overlap))
    if starts[-1] + tile < size:
        starts.append(size - tile)
    bounds = [(start, start + (min(start + tile, size) - start) // cell * cell) for start in starts]
    return [(start, end) for start, end in bounds if end > start]


def ramp(length: int, overlap: int, before: bool, after: bool) -> np.ndarray:
    """Weights (length,) float32 of a tile's cells: k / (n + 1) over n overlapping cells on sides with a neighbour."""
    weights = np.ones(length, np.float32)
    n = min(overlap, length)
    rise = np.arange(1, n + 1, dtype=np.float32) / np.float32(n + 1)
    if before and n:
        weights[:n] *= rise
    if after and n:
        weights[-n:] *= rise[::-1]
    return weights
