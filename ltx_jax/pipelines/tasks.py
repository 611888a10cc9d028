"""Tasks as declarations: which stages a request means, what each one begins with, holds and is guided by.

A new task is a row of TASKS, and a function beside `one_stage` where its stages are of another kind. Nothing here
computes: the sampler executes stages and knows no task.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np

from ltx_jax.diffusion.conditioning import LatentAtIndex
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.diffusion.guidance import Guidance, GuidanceTable
from ltx_jax.diffusion.items import Item
from ltx_jax.diffusion.latent_tiles import Counts
from ltx_jax.diffusion.steppers import steps_of
from ltx_jax.media.images import read_image
from ltx_jax.pipelines.request import Request

# Frames uint8 (F, h, w, 3) -> normalised video tokens (B, T, C), equal for all clips of the batch.
EncodeVideo = Callable[[np.ndarray], Any]


class Given(Protocol):
    """Something of the request that a stream is held to; it becomes a conditioning item when its stage begins."""

    def item(self, shape: VideoShape, encode: EncodeVideo) -> Item: ...


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture held at a latent frame. strength: 1 fixed, 0 ignored."""

    path: str
    index: int = 0
    strength: float = 1.0

    def item(self, shape: VideoShape, encode: EncodeVideo) -> Item:
        """Read, cut to the clip's size, and encoded alone. Raises UserError as `read_image`."""
        pixels = read_image(self.path, shape.height, shape.width)  # uint8 (h, w, 3)
        return LatentAtIndex(encode(pixels[None]), self.index, self.strength)


@dataclasses.dataclass(frozen=True)
class Part:
    """One stream of a stage: video or sound.

    guidance: of its predictions, at all noise levels or by them. given: what it is held to, in order. start: the
    tokens that the first noise level is mixed into: none, or what the stage before made. frozen: kept as it starts, for
    the other stream to follow.
    """

    guidance: Guidance | GuidanceTable = Guidance()
    given: tuple[Given, ...] = ()
    start: Literal["nothing", "previous"] = "nothing"
    frozen: bool = False


@dataclasses.dataclass(frozen=True)
class Stage:
    """One denoising of all streams, of clips of one shape, along decreasing noise levels.

    options: numbers of the stepper that are not its defaults, see `steppers.STEPPERS`. reuse: see `plan.make_plan`.
    tiles: in which the network sees the video, (count, overlap in latent cells) of frames, rows and columns; None: as a
    whole (spec sampling.md 12.13).
    """

    shape: VideoShape
    sigmas: tuple[float, ...]
    video: Part
    audio: Part
    stepper: str = "euler"
    options: tuple[tuple[str, float], ...] = ()
    reuse: float = 0.0
    tiles: Counts | None = None

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        return steps_of(self.stepper, self.sigmas)


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of TASKS. needs: fields of the request without which it makes no sense; stages: of a resolved request."""

    summary: str
    stages: Callable[[Request], tuple[Stage, ...]]
    needs: tuple[str, ...] = ()


def one_stage(request: Request) -> tuple[Stage, ...]:
    """Everything at once, at full size (spec sampling.md 12.1), held to what the request gives."""
    video, audio = request.guides()
    parts = (Part(video, _pictures(request)), Part(audio))
    return (Stage(shape_of(request), request.levels(), *parts, **request.stepping()),)


# Of several tasks whose needs a request meets the last is meant.
TASKS: dict[str, Task] = {
    "t2v": Task("A clip with sound from words.", one_stage),
    "i2v": Task("A clip with sound from words and its first picture.", one_stage, needs=("image",)),
}


def stages_of(request: Request) -> tuple[Stage, ...]:
    """What a resolved request means, stage by stage."""
    fitting = [task for task in TASKS.values() if all(getattr(request, name) is not None for name in task.needs)]
    return fitting[-1].stages(request)


def shape_of(request: Request) -> VideoShape:
    """The size of a resolved request's clips."""
    assert request.num_frames and request.height and request.width and request.fps
    return VideoShape(request.num_frames, request.height, request.width, request.fps)


def _pictures(request: Request) -> tuple[Given, ...]:
    return () if request.image is None else (Picture(request.image, strength=request.image_strength),)
