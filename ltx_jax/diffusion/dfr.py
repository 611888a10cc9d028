"""Detail rendering: where its key frames stand and how its temporal rounds are cut into tiles (spec sampling.md 12.14).

Frames are pixel frames of the whole clip, on the host. A latent frame holds TIME of them, the first one a single one.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from ltx_jax.errors import require

TIME = 8
SEGMENTS = (32, 24)  # pixel frames between key frames; of two that pad as little the first is taken


@dataclasses.dataclass(frozen=True)
class Canvas:
    """A clip's length with padding at its end, and the key frames that are generated with it.

    frames: of the padded clip. segment: frames between key frames. positions: the key frames; the last is the clip's.
    """

    frames: int
    segment: int

    @property
    def positions(self) -> tuple[int, ...]:
        """The key frames' places, strictly increasing; frame 0 is none."""
        return tuple(range(self.segment, self.frames, self.segment))


def canvas(frames: int) -> Canvas:
    """The canvas of a clip of `frames` frames: padded to whole segments, as little as can be."""
    require(frames >= 1, f"A clip needs at least one frame, not {frames}.")
    content = frames - 1
    segment = min(SEGMENTS, key=lambda s: -content % s)
    return Canvas(content + -content % segment + 1, segment)


@dataclasses.dataclass(frozen=True)
class RoundTile:
    """What one generation of a temporal round sees, in frames of the whole clip.

    pixels: first and last frame. latents: [start, end). drop: latent frames at its beginning that the tile before
    makes. anchors: key frames that it is held to; slots: those that it generates.
    """

    pixels: tuple[int, int]
    latents: tuple[int, int]
    drop: int
    anchors: tuple[int, ...]
    slots: tuple[int, ...]


def doubled(anchors: Sequence[int]) -> tuple[int, ...]:
    """Anchors at the doubled frame rate of a round."""
    return tuple(2 * anchor for anchor in anchors)


def round_tiles(anchors: Sequence[int], count: int) -> list[RoundTile]:
    """The tiles of a temporal round between `anchors` (doubled already, the last one the clip's last frame).

    count: how many at most, 2^round; there are not more than segments. Every tile but the first also sees the segment
    before those that it makes.
    """
    bounds = (0, *anchors)
    segments = len(bounds) - 1
    require(segments >= 1 and count >= 1, "A temporal round needs at least one anchor behind frame 0 and one tile.")
    whole, rest = divmod(segments, min(count, segments))
    tiles, low = [], 0
    for i in range(min(count, segments)):
        high = low + whole + (i < rest)
        window = bounds[max(0, low - 1) : high + 1]
        start = window[0]
        tiles.append(
            RoundTile(
                pixels=(start, window[-1]),
                latents=(start // TIME, window[-1] // TIME + 1),
                drop=bounds[low] // TIME - start // TIME + (low > 0),
                anchors=tuple(bound for bound in window if bound > 0),
                slots=tuple((a + b) // 2 for a, b in itertools.pairwise(window)),
            )
        )
        low = high
    return tiles


def stitched(tiles: Sequence[RoundTile], latents: Sequence[np.ndarray], axis: int = 1) -> np.ndarray:
    """The clip's latent from the tiles' latents (B, F, ...), without what the tile before made."""
    kept = [np.take(z, range(tile.drop, z.shape[axis]), axis) for tile, z in zip(tiles, latents, strict=True)]
    return np.concatenate(kept, axis)


def next_anchors(tiles: Sequence[RoundTile], anchors: Sequence[int]) -> dict[int, int]:
    """Every anchor after a round, in order, and the tile that generated it; -1 for those of before.

    A slot that two tiles made is the earlier one's.
    """
    made = dict.fromkeys(anchors, -1)
    for i, tile in enumerate(tiles):
        for slot in tile.slots:
            made.setdefault(slot, i)
    return dict(sorted(made.items()))
