"""Which shape a clip is brought to: the bucket rule, its resize and crop (spec training.md 7.3, sampling.md 8.4)."""

import dataclasses
import math
import re
from collections.abc import Sequence

from ltx_jax.errors import require
from ltx_jax.media.resize import covering

Shape = tuple[int, int, int]  # frames, height, width


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
    """Clips of one size: height, width in pixels, frames at fps (frames per second); fps 0: as each file has it."""

    height: int
    width: int
    frames: int
    fps: float

    @property
    def name(self) -> str:
        """WIDTHxHEIGHTxFRAMES@FPS, as `parse_buckets` reads it and as shards are named."""
        return f"{self.width}x{self.height}x{self.frames}@{self.fps:g}"

    @property
    def shape(self) -> Shape:
        """(frames, height, width)."""
        return self.frames, self.height, self.width

    @property
    def seconds(self) -> float:
        """The length of a clip."""
        return self.frames / self.fps


def parse_buckets(names: Sequence[str], fps: float) -> tuple[Bucket, ...]:
    """Buckets of names WxHxF or WxHxF@FPS; `fps` where a name says none, and FPS may be "source": the file's own.

    Raises UserError for a name of another form and for one that is given twice.
    """
    buckets = []
    for name in names:
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)(?:@(source|\d+(?:\.\d+)?))?", name.strip())
        require(found is not None, f"'{name}' is no bucket; write WIDTHxHEIGHTxFRAMES or WIDTHxHEIGHTxFRAMES@FPS.")
        assert found is not None
        width, height, frames = (int(n) for n in found.groups()[:3])
        rate = {None: fps, "source": 0.0}.get(found[4])
        buckets.append(Bucket(height, width, frames, float(found[4]) if rate is None else rate))
    require(len(set(buckets)) == len(buckets), f"A bucket is named twice in {', '.join(names)}.")
    return tuple(buckets)


def checked_buckets(names: Sequence[str], fps: float, scale: Shape) -> tuple[Bucket, ...]:
    """`parse_buckets`, refusing what `check_buckets` refuses. scale: pixels per latent cell (time, height, width)."""
    buckets = parse_buckets(names, fps)
    check_buckets([bucket.shape for bucket in buckets], scale)
    return buckets


def best_bucket(size: tuple[int, int], seconds: float, fps: float, buckets: Sequence[Bucket]) -> Bucket | None:
    """The bucket for `seconds` of a video of (height, width) at `fps`; None when it is shorter than all.

    The rule of `choose_bucket`, frames counted at the bucket's own rate; between equal sizes the nearest rate wins.
    The result says the rate, also where the bucket leaves it to the file.
    """
    rated = [b if b.fps else dataclasses.replace(b, fps=round(fps, 3)) for b in buckets]
    possible = [b for b in rated if b.frames <= frames_at(seconds, b.fps)]
    if not possible:
        return None
    longest = max(b.frames for b in possible)
    shape = choose_bucket((longest, *size), [b.shape for b in possible])
    return min((b for b in possible if b.shape == shape), key=lambda b: abs(math.log(b.fps / fps)))


def frames_at(seconds: float, fps: float) -> int:
    """Frames of a rate in a time, to the nearest: a file's stated length is often a little off."""
    return int(seconds * fps + 0.5)


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
