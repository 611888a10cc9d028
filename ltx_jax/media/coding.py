"""How films are coded: H.264 of 8 bits for screens, HEVC of 10 bits and HLG for light (spec sampling.md 13, 14.4)."""

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import OutputContainer

from ltx_jax.media import color, yuv


@dataclasses.dataclass(frozen=True)
class Coding:
    """A codec and how frames are made for it.

    frame: a picture (h, w, 3) as the codec takes it. tags: of H.273, colour primaries, transfer and matrix; the range
    is limited. denominator: the largest of a frame rate's fraction.
    """

    codec: str
    pixels: str
    tags: tuple[int, int, int]
    frame: Callable[[np.ndarray], av.VideoFrame]
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    codec_tag: str | None = None
    denominator: int = 1001

    def stream(self, container: OutputContainer, height: int, width: int, fps: float) -> av.VideoStream:
        """A new stream of a container, for pictures of this size."""
        rate = Fraction(fps).limit_denominator(self.denominator)
        stream: Any = container.add_stream(self.codec, rate=rate, options=dict(self.options))
        stream.height, stream.width, stream.pix_fmt = height, width, self.pixels
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = self.tags
        context.color_range = 1
        if self.codec_tag is not None and container.format.name in ("mp4", "mov"):
            context.codec_tag = self.codec_tag
        return stream


def _screen(picture: np.ndarray) -> av.VideoFrame:
    """uint8 sRGB."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")


def _hlg(picture: np.ndarray) -> av.VideoFrame:
    """float32 linear light of Rec.709 primaries, 1 diffuse white."""
    planes = yuv.planes(color.hlg(picture), "bt2020", bits=10)
    height, width = picture.shape[:2]
    frame = av.VideoFrame(width, height, "yuv420p10le")
    for plane, codes in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
        rows[:, : plane.width] = codes
        plane.update(rows.tobytes())
    return frame


SCREEN = Coding("libx264", "yuv420p", (1, 1, 1), _screen, {"crf": "18"})
HLG = Coding(
    "libx265", "yuv420p10le", (9, 18, 9), _hlg,
    {"crf": "12", "preset": "ultrafast", "x265-params": "log-level=error"}, codec_tag="hvc1", denominator=1000,
)  # fmt: skip
