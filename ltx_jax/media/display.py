"""How a stored frame is meant to be seen: turned and mirrored by its display matrix, on square pixels."""

import dataclasses

import av
import numpy as np
from av.sidedata.sidedata import Type

from ltx_jax.errors import UserError
from ltx_jax.media.container import name_of
from ltx_jax.media.images import cover

TURNS = {  # clockwise degrees of a `rotate` tag -> where the matrix takes a stored pixel's right and down
    0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0),
}  # fmt: skip
SKEW = 0.02  # largest share of the other axis in a matrix that still counts as a quarter turn
LONGEST_PIXEL = 16.0  # a pixel longer than this, either way, is a mistake in the file


@dataclasses.dataclass(frozen=True)
class Display:
    """How a frame is shown. height, width: on square pixels, as players count them (the width is stretched).

    transposed: rows and columns are exchanged first; then rows and columns are walked in steps of 1 or -1.
    """

    height: int
    width: int
    transposed: bool
    rows: int
    columns: int

    def picture(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        """The frame as it is shown, covering height x width, its middle kept: RGB uint8 (height, width, 3)."""
        pixels = frame.to_ndarray(format="rgb24")
        pixels = pixels.swapaxes(0, 1) if self.transposed else pixels
        upright = np.ascontiguousarray(pixels[:: self.rows, :: self.columns])
        return cover(upright, height, width, (self.height, self.width))


def display_of(frame: av.VideoFrame, film: av.VideoStream) -> Display:
    """How `frame` is to be shown. Raises UserError for a pixel shape or a display matrix that cannot be honoured.

    The display matrix (a b u; c d v; x y w) takes a stored pixel's right to (a, b) and its down to (c, d).
    """
    a, b, c, d = _matrix(frame, film)
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    transposed = crossed > straight
    if min(straight, crossed) > SKEW * max(straight, crossed) or 0 in ((b, c) if transposed else (a, d)):
        name = name_of(film.container)
        raise UserError(f"'{name}' is to be shown at a slant (display matrix {a} {b} {c} {d}): re-encode it upright.")
    across, along = (c, b) if transposed else (a, d)
    rows, columns = (-1 if along < 0 else 1), (-1 if across < 0 else 1)
    height, width = frame.height, max(1, round(frame.width * _aspect(film)))
    return Display(*((width, height) if transposed else (height, width)), transposed, rows, columns)


def _aspect(film: av.VideoStream) -> float:
    """Width of a stored pixel over its height; the container's word counts before the stream's."""
    ratio = float(film.sample_aspect_ratio or film.codec_context.sample_aspect_ratio or 1)
    if not 1 / LONGEST_PIXEL <= ratio <= LONGEST_PIXEL:
        name = name_of(film.container)
        raise UserError(f"'{name}' says that its pixels are {ratio:g} times as wide as high: mend its aspect ratio.")
    return ratio


def _matrix(frame: av.VideoFrame, film: av.VideoStream) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the frame's display matrix; where it has none, of the film's tag `rotate`."""
    stored = frame.side_data.get(Type.DISPLAYMATRIX)
    if stored is not None:
        a, b, _, c, d = np.frombuffer(bytes(stored), np.int32)[:5].tolist()
        return (a, b, c, d) if any((a, b, c, d)) else TURNS[0]  # all zero: a writer that left it out
    degrees = next((value for key, value in film.metadata.items() if key.lower() == "rotate"), "0")
    try:
        return TURNS[round(float(degrees)) % 360]
    except (KeyError, ValueError):
        name = name_of(film.container)
        raise UserError(f"'{name}' is to be shown turned by '{degrees}' degrees: re-encode it upright.") from None
