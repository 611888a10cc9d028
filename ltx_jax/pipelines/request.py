"""What a user asks for, validated against the model before anything is compiled or loaded."""

import dataclasses
from pathlib import Path

from ltx_jax.errors import UserError, require
from ltx_jax.media.images import read_image
from ltx_jax.releases import Release

VIDEO_ENDINGS = (".mp4", ".mov", ".mkv")


@dataclasses.dataclass(frozen=True)
class Request:
    """One call of the sampler. None means the release's default.

    prompts: one clip each, times num_samples. width, height: pixels. num_frames: pixel frames, 1 + k * time factor.
    fps: frames per second. steps: Euler steps. cfg, audio_cfg: guidance scales on the video and the audio (1: off).
    image: picture held as the first frame, with image_strength (1: fixed, 0: ignored).
    """

    prompts: tuple[str, ...]
    negative_prompt: str | None = None
    seed: int | None = None
    num_samples: int = 1
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    cfg: float | None = None
    audio_cfg: float | None = None
    rescale: float | None = None
    schedule_tokens: int | None = None
    image: str | None = None
    image_strength: float = 1.0

    def __post_init__(self):
        require(bool(self.prompts), 'There is no prompt; give --prompt="...".')
        require(all(p.strip() for p in self.prompts), "The prompt is empty; describe the clip in words.")
        require(self.num_samples >= 1, f"num_samples is {self.num_samples}, but must be at least 1.")
        require(self.steps is None or self.steps >= 1, f"steps is {self.steps}, but must be at least 1.")
        require(self.fps is None or self.fps > 0, f"fps is {self.fps}, but must be above 0.")
        require(0 <= self.image_strength <= 1, f"The image strength is {self.image_strength}, but must lie in 0..1.")
        for name in ("cfg", "audio_cfg"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"{name} is {value}, but must not be negative.")

    def resolve(self, release: Release) -> "Request":
        """Fill the defaults of `release` and check sizes against its video VAE. Raises UserError."""
        defaults = dataclasses.asdict(release.sampling)
        filled = {k: v for k, v in defaults.items() if k in _FIELDS and getattr(self, k) is None}
        if self.cfg is not None and self.audio_cfg is None:
            filled["audio_cfg"] = self.cfg  # one scale given: both streams follow it
        request = dataclasses.replace(self, **filled)
        _check_size(request, release)
        if request.image is not None:  # read here, so that a bad picture is refused before anything is compiled
            assert request.height and request.width
            read_image(request.image, request.height, request.width)
        return request

    @property
    def clips(self) -> list[tuple[str, int]]:
        """(prompt, sample number) of every clip, in order; the number selects the clip's noise."""
        pairs = [(p, i) for p in self.prompts for i in range(self.num_samples)]
        return [(p, n) for n, (p, _) in enumerate(pairs)]


_FIELDS = {f.name for f in dataclasses.fields(Request)}


def _check_size(request: Request, release: Release) -> None:
    time, height, width = release.video_vae.scale_factors
    for name, value, factor in (("width", request.width, width), ("height", request.height, height)):
        require(
            value is not None and value > 0 and value % factor == 0,
            f"{name} is {value}, but must be a multiple of {factor} (the video VAE's factor), such as "
            f"{max(factor, (value or 0) // factor * factor)}.",
        )
    frames = request.num_frames or 0
    require(
        frames >= 1 and (frames - 1) % time == 0,
        f"num_frames is {frames}, but must be 1 + k x {time}, such as {max(0, frames - 1) // time * time + 1}.",
    )


def check_output(path: str, clips: int) -> list[Path]:
    """Paths of `clips` videos at `path` (numbered when there are several). Raises UserError for a bad ending."""
    target = Path(path)
    if target.suffix.lower() not in VIDEO_ENDINGS:
        raise UserError(f"The output '{path}' is no video: its name must end in {', '.join(VIDEO_ENDINGS)}.")
    if target.is_dir():
        raise UserError(f"The output '{path}' is a folder; give the name of a file.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder '{target.parent}' cannot be made: {error.strerror}.") from None
    if clips == 1:
        return [target]
    return [target.with_name(f"{target.stem}_{i:03d}{target.suffix}") for i in range(clips)]
