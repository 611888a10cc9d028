"""From one file to clips: which windows of a video are taken, and their pixels and sound.

The two functions here, `plan_video` and `read_clip`, are all that worker processes (or Ray's tasks) run. Neither
raises for a bad file: they return the reason, a sentence.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from ltx_jax.data.buckets import Bucket, best_bucket, frames_at
from ltx_jax.data.preparation.scenes import SIDE, scene_starts
from ltx_jax.errors import UserError, require
from ltx_jax.media.video import VideoInfo, probe, read_audio, read_video, thumbnails

WHOLE = 0.9  # share of the frames that a file says it has which must be there


@dataclasses.dataclass(frozen=True)
class ClipRules:
    """How videos are cut. buckets: see data/buckets.py. sample_rate of the sound in Hz.

    scenes: a clip never spans a cut; otherwise a file is one scene. threshold: of the cuts, see
    data/preparation/scenes.py. clips_per_scene: windows taken of a scene, one after the other from its start; 0: as
    many as fit.
    """

    buckets: tuple[Bucket, ...]
    sample_rate: int
    scenes: bool = True
    threshold: float = 12.0
    clips_per_scene: int = 0

    def __post_init__(self):
        require(len(self.buckets) > 0, "There is no bucket; name at least one WIDTHxHEIGHTxFRAMES.")
        require(self.threshold > 0, f"The threshold of scene cuts must be above 0, not {self.threshold}.")
        require(self.clips_per_scene >= 0, f"clips_per_scene must not be negative, not {self.clips_per_scene}.")


@dataclasses.dataclass(frozen=True)
class Video:
    """A file to prepare: its path, its name in records (the path below the input's folder), and its caption."""

    path: str
    name: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Clip:
    """A window of a video: bucket.frames frames from `start` seconds on."""

    path: str
    name: str
    caption: str
    bucket: Bucket
    start: float


def plan_video(video: Video, rules: ClipRules) -> list[Clip] | str:
    """The clips of a file in order of time, or why there is none."""
    try:
        info = probe(video.path)
        scenes = _scenes(video.path, info, rules)
    except UserError as error:
        return str(error)
    clips = []
    for start, end in scenes:
        bucket = best_bucket((info.height, info.width), end - start, info.fps, rules.buckets)
        if bucket is None:
            continue
        windows = frames_at(end - start, bucket.fps) // bucket.frames
        taken = min(windows, rules.clips_per_scene or windows)
        times = (round(start + i * bucket.seconds, 6) for i in range(taken))
        clips += [Clip(video.path, video.name, video.caption, bucket, time) for time in times]
    return clips or _too_short(video, info, scenes, rules)


def _scenes(path: str, info: VideoInfo, rules: ClipRules) -> list[tuple[float, float]]:
    """(start, end) of every scene in seconds, after decoding the whole file: what it says of itself may be wrong."""
    ends: list[float] = []

    def pictures() -> Iterator[tuple[float, np.ndarray]]:
        for time, end, picture in thumbnails(path, SIDE):
            ends.append(end)
            yield time, picture

    starts = [0.0, *scene_starts(pictures(), rules.threshold)[1:]]
    if len(ends) < max(1, WHOLE * info.frames):
        raise UserError(f"'{path}' is cut off: only {len(ends)} of its {info.frames} frames can be decoded.")
    starts = starts if rules.scenes else [0.0]
    return list(zip(starts, [*starts[1:], ends[-1]], strict=True))


def _too_short(video: Video, info: VideoInfo, scenes: list[tuple[float, float]], rules: ClipRules) -> str:
    longest = max(end - start for start, end in scenes)
    needed = min(b.frames / (b.fps or info.fps) for b in rules.buckets)
    cut = f" in its longest of {len(scenes)} scenes" if len(scenes) > 1 else ""
    return f"'{video.path}' lasts {longest:.2f} s{cut}, less than the shortest bucket's {needed:.2f} s."


def read_clip(clip: Clip, sample_rate: int) -> dict[str, Any] | str:
    """video uint8 (F, h, w, 3), audio float32 (2, L), has_audio; or why they cannot be read."""
    bucket = clip.bucket
    try:
        video = read_video(
            clip.path, frames=bucket.frames, fps=bucket.fps, height=bucket.height, width=bucket.width, start=clip.start
        )
        samples = int(bucket.seconds * sample_rate)
        audio, heard = read_audio(clip.path, samples=samples, sample_rate=sample_rate, start=clip.start)
    except UserError as error:
        return str(error)
    return {"video": video, "audio": audio, "has_audio": np.bool_(heard)}


def crashed(job: Video | Clip) -> str:
    """Why there is nothing of a job whose process died."""
    return f"'{job.path}' makes the decoder crash."
