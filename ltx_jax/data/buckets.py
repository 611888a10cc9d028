"""Which shape a clip is brought to: the bucket rule, its resize and crop (spec training.md 7.3, sampling.md 8.4)."""

import dataclasses
import math
from collections.abc import Sequence

from ltx_jax.config import require
from ltx_jax.media.resize import covering

Shape = tuple[int, int, int]  # frames, height, width


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a video reaches its bucket. resized: (height, width) that covers it; crop: (top, left, height, width)."""

    bucket: Shape
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]


def check_buckets(buckets: Sequence[Shape], scale: Shape) -> None:
    """Raise UserError unless every bucket is a whole number of latent cells. scale: pixels per cell (time, h, w)."""
    require(len(buckets) > 0, "There is no bucket; name at least one width x height x frames.")
    time, tall, wide = scale
    for frames, height, width in buckets:
        require(
            frames >= 1
            and (frames - 1) % time == 0
            and height % tall == 0
            and width % wide == 0
            and height * width > 0,
            f"The bucket {width}x{height}x{frames} does not fit the model: width must be a multiple of {wide}, height "
            f"of {tall}, and frames a multiple of {time} plus 1.",
        )


def choose_bucket(video: Shape, buckets: Sequence[Shape]) -> Shape | None:
    """The bucket for a video of (frames, height, width), None when it is shorter than all.

    Among buckets that are no longer than the video: nearest in log aspect ratio, then longest, then largest, then
    first.
    """
    frames, height, width = video
    possible = [b for b in buckets if b[0] <= frames]
    aspect = math.log(width / height)
    return min(possible, key=lambda b: (abs(aspect - math.log(b[2] / b[1])), -b[0], -b[1] * b[2]), default=None)


def fit(video: Shape, buckets: Sequence[Shape]) -> Fit | None:
    """Bucket, resize and centre crop of a video of (frames, height, width); None when no bucket is short enough."""
    bucket = choose_bucket(video, buckets)
    if bucket is None:
        return None
    _, height, width = bucket
    tall, wide = covering((video[1], video[2]), (height, width))
    return Fit(bucket, (tall, wide), ((tall - height) // 2, (wide - width) // 2, height, width))


def temporal_subsample(frames: int, factor: int) -> list[int]:
    """Frames kept of a reference at 1 / factor of the rate: the first, then every factor-th from frame 1 on.

    Raises UserError when frames - 1 is no multiple of the factor.
    """
    require(
        factor >= 1 and (frames - 1) % factor == 0,
        f"{frames} frames cannot be thinned by {factor}: frames minus 1 must be a multiple of the factor.",
    )
    return [0, *range(1, frames, factor)]
