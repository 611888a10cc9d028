"""Splits of an axis into overlapping intervals, and the masks that blend them (spec video_vae.md sections 6.1, 6.2)."""

import dataclasses

import numpy as np

from ltx_jax.errors import require


@dataclasses.dataclass(frozen=True)
class Interval:
    """Cells [start, end), of which the first `left` and the last `right` are shared with the neighbours."""

    start: int
    end: int
    left: int = 0
    right: int = 0

    @property
    def length(self) -> int:
        """Number of cells."""
        return self.end - self.start


def by_size(length: int, size: int, overlap: int, least: int | None = None) -> list[Interval]:
    """Tiles of `size` cells; the last may be shorter, but not below `least`. Raises UserError where that cannot be."""
    require(0 <= overlap < size, f"The overlap {overlap} must be at least 0 and below the tile size {size}.")
    if length <= size or (least is not None and length < least):
        return [Interval(0, length)]
    step = size - overlap
    count = (length + size - 2 * overlap - 1) // step
    tiles = [Interval(i * step, i * step + size, overlap if i else 0, overlap) for i in range(count - 1)]
    tiles.append(Interval((count - 1) * step, length, overlap if count > 1 else 0, 0))
    return _with_least(tiles, least)


def by_count(length: int, count: int, overlap: int = 0, least: int | None = None) -> list[Interval]:
    """`count` tiles of nearly equal size, the longer ones first. Raises UserError when there are too few cells."""
    require(1 <= count <= length, f"{length} cells cannot be cut into {count} tiles.")
    if count == 1:
        return [Interval(0, length)]
    size, rest = divmod(length + overlap * (count - 1), count)
    require(size > overlap, f"{count} tiles of {length} cells are too small for an overlap of {overlap}.")
    tiles = [
        Interval(t.start + min(i, rest), t.end + min(i, rest) + (i < rest), t.left, t.right)
        for i, t in enumerate(by_size(length - rest, size, overlap))
    ]
    return _with_least(tiles, least)


def with_sacrificial_start(tiles: list[Interval]) -> list[Interval]:
    """The causal variant: every tile but the first begins one cell earlier.

    That cell is decoded as if it began the video, into a single frame, and gets no weight.
    """
    return tiles[:1] + [Interval(t.start - 1, t.end, t.left + 1, t.right) for t in tiles[1:]]


def temporal_frames(length: int, size: int, overlap: int) -> list[Interval]:
    """The frame-space variant: every tile but the last ends one frame later, and nothing ramps down."""
    tiles = by_size(length, size, overlap)
    last = len(tiles) - 1
    return [Interval(t.start, t.end + (i < last), t.left, 0) for i, t in enumerate(tiles)]


def trapezoid(length: int, left: int, right: int, zero_start: bool) -> np.ndarray:
    """A mask (length,) float32 that rises over `left` cells and falls over `right`; overlapping ramps multiply.

    zero_start: the rise begins at 0 (0, 1/left, ...), else strictly inside (1/(left + 1), ...).
    """
    left, right = (min(max(ramp, 0), length) for ramp in (left, right))
    mask = np.ones(length, np.float32)
    if left:
        mask[:left] *= np.arange(left) / left if zero_start else np.arange(1, left + 1) / (left + 1)
    if right:
        mask[length - right :] *= np.arange(right, 0, -1) / (right + 1)
    return mask


def _with_least(tiles: list[Interval], least: int | None) -> list[Interval]:
    """`tiles` with the last one extended to `least` cells where it is shorter."""
    if least is None:
        return tiles
    last = tiles[-1]
    if len(tiles) > 1 and last.length < least:
        before, start = tiles[-2], last.end - least
        shared = before.end - start
        tiles = [*tiles[:-2], dataclasses.replace(before, right=shared), Interval(start, last.end, shared, 0)]
    for i, tile in enumerate(tiles):
        shared = tiles[i - 1].end - tile.start if i else 0
        fits = tile.length >= least and max(tile.left, tile.right) <= tile.length
        agrees = tile.left == shared and (i == 0 or tiles[i - 1].right == shared)
        require(
            fits and agrees, f"These cells cannot be cut into tiles of at least {least}: use larger or fewer tiles."
        )
    return tiles
