"""Tiled encoding and decoding: what part of a grid each tile sees, and how tiles blend (spec video_vae.md section 6).

Plans are plain integers and numpy masks; `tiled_decode` and `tiled_encode` run any encoder or decoder tile by tile.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from ltx_jax.errors import require
from ltx_jax.splits import Interval, by_count, by_size, trapezoid, with_sacrificial_start

Factors = tuple[int, int, int]

COMPLEMENT_TOLERANCE = 1e-5
WEIGHT_FLOOR = 1e-8
ENCODE_OVERLAP = (16, 64, 64)  # least overlaps of size-based encoding: frames, pixels, pixels
AXES = ("frames", "height", "width")


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How to tile (section 6.3), per axis a pair; None leaves the axis in one piece.

    kind "size": (tile, overlap) in frames or pixels, multiples of the axis' factor. kind "count": (tiles, overlap),
    the overlap in latent cells. The default is the official one of size-based tiling.
    """

    kind: Literal["size", "count"] = "size"
    frames: tuple[int, int] | None = (80, 24)
    height: tuple[int, int] | None = (768, 64)
    width: tuple[int, int] | None = (768, 64)

    def __post_init__(self):
        for axis, (amount, overlap) in self.tiled_axes().items():
            require(
                overlap >= 0 and (overlap < amount or self.kind == "count"),
                f"The overlap of {axis} tiles must be at least 0 and below the tile size {amount}, not {overlap}.",
            )

    def tiled_axes(self) -> dict[str, tuple[int, int]]:
        """The pairs of the axes that are tiled, by axis."""
        untiled = (None, (0, 0), (1, 0))[: 2 if self.kind == "size" else 3]
        return {axis: pair for axis in AXES if (pair := getattr(self, axis)) not in untiled}

    def split(self, axis: str, length: int, factor: int, causal: bool, least: int | None = None) -> list[Interval]:
        """Intervals of the `length` latent cells of `axis`, of at least `least`. Raises UserError where none fit."""
        pair = self.tiled_axes().get(axis)
        if pair is None:
            return [Interval(0, length)]
        if self.kind == "count":
            count, overlap = pair
            require(
                count <= length and overlap <= length - count,
                f"{length} latent cells of {axis} cannot be cut into {count} tiles with overlap {overlap}: use fewer.",
            )
            intervals = by_count(length, count, overlap, least)
        else:
            intervals = by_size(length, *self._latent_size(axis, factor), least)
        return with_sacrificial_start(intervals) if causal else intervals

    def _latent_size(self, axis: str, factor: int) -> tuple[int, int]:
        tile, overlap = self.tiled_axes()[axis]
        require(
            tile >= 2 * factor and tile % factor == 0 and overlap % factor == 0,
            f"The {axis} tile {tile} and its overlap {overlap} must be multiples of {factor}, the tile at least "
            f"{2 * factor}.",
        )
        return max(2, overlap // factor + 1, tile // factor), overlap // factor


def long_side_tiling(height: int, width: int, factors: Factors = (8, 32, 32), long_side: int = 768) -> Tiling:
    """The automatic tiling of pipelines (section 6.3): 768 pixels on the longer side, the other in proportion."""
    longest = max(height // factors[1], width // factors[2])

    def pair(pixels: int, factor: int) -> tuple[int, int]:
        overlap = 64
        cells = max(2, overlap // factor + 1, round(long_side // factor * (pixels // factor) / longest))
        return max(factor * cells, 64, overlap + factor), overlap

    return Tiling("size", (80, 24), pair(height, factors[1]), pair(width, factors[2]))


@dataclasses.dataclass(frozen=True)
class AxisTile:
    """One tile on one axis: it reads source [start, end), fills target [start, end), weighted by mask (float32)."""

    source: tuple[int, int]
    target: tuple[int, int]
    mask: np.ndarray


Tile = tuple[AxisTile, AxisTile, AxisTile]  # (time, height, width)


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """The tiles of each axis (time, height, width); the tiles of the grid are their product, time slowest."""

    axes: tuple[tuple[AxisTile, ...], ...]

    @property
    def complementary(self) -> bool:
        """Whether the masks sum to one everywhere, so that no division by the weights is needed."""
        return all(np.abs(axis_weights(tiles) - 1).max() <= COMPLEMENT_TOLERANCE for tiles in self.axes)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Cells or pixels of the result (time, height, width)."""
        return tuple(max(t.target[1] for t in tiles) for tiles in self.axes)

    def tiles(self) -> Iterator[Tile]:
        """The tiles in processing order."""
        return itertools.product(*self.axes)  # type: ignore[return-value]


def axis_weights(tiles: Sequence[AxisTile]) -> np.ndarray:
    """The sum of the masks along one axis."""
    total = np.zeros(max(t.target[1] for t in tiles), np.float32)
    for tile in tiles:
        total[slice(*tile.target)] += tile.mask
    return total


def decode_plan(shape: Sequence[int], tiling: Tiling, factors: Factors) -> TilePlan:
    """From latents (F, H, W) to pixels (section 6.4)."""
    axes = []
    for axis, intervals, factor in _splits(shape, tiling, factors):
        pixels = [_pixels(i, factor, axis == "frames") for i in intervals]
        masks = [trapezoid(p.length, p.left, p.right, axis == "frames") for p in pixels]
        axes.append(_axis_tiles(intervals, pixels, masks))
    return TilePlan(tuple(axes))


def encode_plan(shape: Sequence[int], tiling: Tiling, factors: Factors) -> TilePlan:
    """From pixels to latents (F, H, W) (section 6.5). Raises UserError when size-based overlaps are too small."""
    for axis, least in zip(AXES, ENCODE_OVERLAP, strict=True):
        tile, overlap = tiling.tiled_axes().get(axis, (0, least))
        require(
            tiling.kind == "count" or overlap >= least,
            f"Encoding in {axis} tiles of {tile} needs an overlap of at least {least}, not {overlap}.",
        )
    axes = []
    for axis, intervals, factor in _splits(shape, tiling, factors):
        pixels = [_pixels(i, factor, axis == "frames") for i in intervals]
        masks = [trapezoid(i.length, i.left, i.right, axis == "frames") for i in intervals]
        axes.append(_axis_tiles(pixels, intervals, masks))
    return TilePlan(tuple(axes))


def cell_plan(
    grid: Sequence[int], tiling: Tiling, cell: Factors, overlap: Sequence[int], least: Sequence[int]
) -> TilePlan:
    """From the cells (T, H, W) of a diffusion decoder to pixels (section 8).

    cell: frames and pixels of one; the first frame's cell stands for one frame. overlap: the least in frames and
    pixels, of size-based tilings; least: cells of a tile. Raises UserError where the tiling does not fit them.
    """
    axes = []
    for axis, length, factor, shared, smallest in zip(AXES, grid, cell, overlap, least, strict=True):
        pair = tiling.tiled_axes().get(axis)
        require(
            tiling.kind == "count" or pair is None or pair[1] >= shared,
            f"A diffusion decoder sees far: its {axis} tiles need an overlap of at least {shared}, not "
            f"{pair and pair[1]}.",
        )
        intervals = tiling.split(axis, length, factor, causal=False, least=smallest)
        late = factor - 1 if axis == "frames" else 0  # frames that the first cell lacks
        pixels = [
            Interval(i.start * factor - late * (i.start > 0), i.end * factor - late, i.left * factor, i.right * factor)
            for i in intervals
        ]
        masks = [trapezoid(p.length, p.left, p.right, False) for p in pixels]
        axes.append(_axis_tiles(intervals, pixels, masks))
    return TilePlan(tuple(axes))


def identity_plan(shape: Sequence[int], tiling: Tiling, factors: Factors) -> TilePlan:
    """From latents to latents, not causal: tiles of a transformer's grid (section 6.6)."""
    axes = []
    for axis, length, factor in zip(AXES, shape, factors, strict=True):
        intervals = tiling.split(axis, length, factor, causal=False)
        masks = [trapezoid(i.length, i.left, i.right, False) for i in intervals]
        axes.append(_axis_tiles(intervals, intervals, masks))
    return TilePlan(tuple(axes))


def tiled_decode(
    decode: Callable[[Any], Any], latents: Any, tiling: Tiling | None, factors: Factors
) -> Iterator[np.ndarray]:
    """Yield consecutive chunks of frames (B, f, h, w, 3) of latents (B, F, H, W, C), holding few frames at a time.

    decode: latents of one tile -> pixels of one tile, statistics included. Without a tiling one chunk is yielded.
    """
    if tiling is None:
        yield np.asarray(decode(latents))
        return
    yield from blended(lambda tile: decode(latents[_region(tile)]), decode_plan(latents.shape[1:4], tiling, factors))


def blended(decode: Callable[[Tile], Any], plan: TilePlan) -> Iterator[np.ndarray]:
    """Yield consecutive chunks of frames (B, f, h, w, 3), each as soon as no later tile reaches it.

    decode: a tile of the plan -> its pixels.
    """
    starts = [tile.target[0] for tile in plan.axes[0]]
    carry: np.ndarray | None = None
    for i, time in enumerate(plan.axes[0]):
        frames = _group(decode, plan, time)
        if carry is not None:
            if carry.shape[1] > frames.shape[1]:
                carry, frames = frames, carry
            frames[:, : carry.shape[1]] += carry
        ready = starts[i + 1] - starts[i] if i + 1 < len(starts) else frames.shape[1]
        carry = frames[:, ready:].copy()
        yield _weighted(frames[:, :ready], plan, starts[i])


@dataclasses.dataclass(frozen=True)
class CellTile:
    """What a tile of a `cell_plan` reads (T, H, W) and shows. starts, ends: whether it has the first and last frames.

    The last frames come with the ghosts behind them; `frames` counts those that it shows.
    """

    cells: Factors
    frames: int
    starts: bool
    ends: bool

    @classmethod
    def of(cls, tile: Tile, frames: int, behind: int) -> "CellTile":
        """tile: of a plan of `frames` frames of cells, `behind` which lie so many of ghosts."""
        (first, last), rows, columns = (axis.source for axis in tile)
        ends = last == frames
        cells = (last - first + behind * ends, rows[1] - rows[0], columns[1] - columns[0])
        return cls(cells, len(tile[0].mask), first == 0, ends)


def cropped(chunks: Iterator[np.ndarray], region: tuple[slice, slice, slice]) -> Iterator[np.ndarray]:
    """Of consecutive chunks (B, F, h, w, C) the frames up to region[0].stop, and of those its rows and columns."""
    left = region[0].stop
    for chunk in chunks:
        if left:
            chunk = chunk[:, :left, *region[1:]]
            left -= chunk.shape[1]
            yield chunk


def tiled_encode(encode: Callable[[Any], Any], video: Any, tiling: Tiling | None, factors: Factors) -> np.ndarray:
    """Latents (B, F', H', W', C) of video (B, F, H, W, 3); trailing frames, rows and columns that do not fit are cut.

    encode: pixels of one tile -> latents of one tile, statistics included.
    """
    frames, height, width = video.shape[1:4]
    shape = ((frames - 1) // factors[0] + 1, height // factors[1], width // factors[2])
    if tiling is None:
        return np.asarray(encode(video[:, : (shape[0] - 1) * factors[0] + 1]))
    plan = encode_plan(shape, tiling, factors)
    groups = [(time, _group(lambda tile: encode(video[_region(tile)]), plan, time)) for time in plan.axes[0]]
    latents = np.zeros((video.shape[0], *plan.target_shape, groups[0][1].shape[-1]), groups[0][1].dtype)
    for time, group in groups:
        latents[:, slice(*time.target)] += group
    return _weighted(latents, plan, 0)


def _region(tile: Tile) -> tuple[slice, ...]:
    """Where a tile lies in an array (B, F, H, W, C) that it reads."""
    return (slice(None), *(slice(*axis.source) for axis in tile))


def _group(run: Callable[[Tile], Any], plan: TilePlan, time: AxisTile) -> np.ndarray:
    """The weighted sum of the tiles of one temporal interval, (B, frames, height, width, C)."""
    group: np.ndarray | None = None
    for rows, columns in itertools.product(*plan.axes[1:]):
        tile = np.asarray(run((time, rows, columns)))
        if group is None:
            group = np.zeros((tile.shape[0], tile.shape[1], *plan.target_shape[1:], tile.shape[-1]), np.float32)
        mask = np.einsum("f,h,w->fhw", time.mask[: tile.shape[1]], rows.mask, columns.mask)
        group[:, :, slice(*rows.target), slice(*columns.target)] += mask[..., None] * tile
    assert group is not None  # every axis has at least one tile
    return group


def _weighted(x: np.ndarray, plan: TilePlan, first: int) -> np.ndarray:
    """x (B, F, H, W, C), whose first frame is `first`, divided by the masks' sum where that is not one."""
    if plan.complementary:
        return x
    time, rows, columns = (axis_weights(tiles) for tiles in plan.axes)
    weights = np.einsum("f,h,w->fhw", time[first : first + x.shape[1]], rows, columns)
    return x / np.maximum(weights, WEIGHT_FLOOR)[..., None]


def _splits(shape: Sequence[int], tiling: Tiling, factors: Factors) -> Iterator[tuple[str, list[Interval], int]]:
    for axis, length, factor in zip(AXES, shape, factors, strict=True):
        yield axis, tiling.split(axis, length, factor, causal=axis == "frames"), factor


def _pixels(interval: Interval, factor: int, time: bool) -> Interval:
    """The pixels of an interval of latents; in time the first latent of a tile stands for one frame."""
    start, end, left, right = dataclasses.astuple(interval)
    if not time:
        return Interval(start * factor, end * factor, left * factor, right * factor)
    return Interval(start * factor, 1 + (end - 1) * factor, 1 + (left - 1) * factor if left else 0, right * factor)


def _axis_tiles(sources: list[Interval], targets: list[Interval], masks: list[np.ndarray]) -> tuple[AxisTile, ...]:
    return tuple(
        AxisTile((s.start, s.end), (t.start, t.end), mask) for s, t, mask in zip(sources, targets, masks, strict=True)
    )
