"""What a user asks for: one declaration that flags, defaults, a clip's metadata and the printed request follow.

A new setting is one field here. Everything is checked against the model before anything is compiled or loaded.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from ltx_jax.errors import require
from ltx_jax.files import read_text
from ltx_jax.media.images import read_image
from ltx_jax.parallel.multihost import say
from ltx_jax.pipelines.fields import setting
from ltx_jax.pipelines.guiding import Guiding
from ltx_jax.releases import Release

LONGEST = 600.0  # seconds of a clip; beyond lies a wrong fps
FASTEST = 1000.0  # frames per second; beyond lies a slip of the finger
SEEDS = 2**64


@dataclasses.dataclass(frozen=True)
class Request(Guiding):
    """One call of the sampler. None means the release's default; each field says in its text what it is."""

    prompts: tuple[str, ...] = setting(
        (), "What the clip shows and sounds like; one clip each, may be repeated.", flag="prompt", saved=False
    )
    negative_prompt: str | None = setting(None, "What guidance steers away from.")
    seed: int | None = setting(None, "Seed of the noise, 0 to 2^64 - 1; equal seeds give equal clips.", saved=False)
    num_samples: int = setting(1, "Clips per prompt.", saved=False)
    width: int | None = setting(None, "Width in pixels.")
    height: int | None = setting(None, "Height in pixels.")
    num_frames: int | None = setting(None, "Frames of the clip: 1 + k times the VAE's time factor.")
    auto_duration: tuple[float, float] | None = setting(
        None, "Let the model's duration head choose the frames: MIN MAX, the shortest and the longest in seconds."
    )
    fps: float | None = setting(None, "Frames per second (also --frame-rate).", official="frame_rate")
    image: str | None = setting(None, "Picture to start from, held as the first frame: PATH [0 [STRENGTH]].")
    image_strength: float = setting(1.0, "How strongly the picture is held: 1 fixed, 0 ignored.")
    enhance_prompt: bool = setting(False, "Let a chat model write the prompt out before it is used.", saved=False)
    enhance_instructions: str | None = setting(
        None, "Text file that says how prompts are to be written out, in the place of ours.", saved=False
    )

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            require(not isinstance(value, float) or math.isfinite(value), f"{name} is {value}, but must be a number.")
        require(bool(self.prompts), 'There is no prompt; give --prompt="...".')
        require(all(p.strip() for p in self.prompts), "The prompt is empty; describe the clip in words.")
        require(self.num_samples >= 1, f"num_samples is {self.num_samples}, but must be at least 1.")
        require(self.seed is None or 0 <= self.seed < SEEDS, f"The seed is {self.seed}, but must lie in 0..2^64 - 1.")
        self.check_guiding()
        require(self.fps is None or 0 < self.fps <= FASTEST, f"fps is {self.fps}, but must lie in 0..{FASTEST:g}.")
        for name, partner in (("image_strength", "image"), ("enhance_instructions", "enhance_prompt")):
            changed = getattr(self, name) != getattr(type(self), name)
            require(not changed or bool(getattr(self, partner)), f"{name} does nothing without {partner}: give both.")
        require(0 <= self.image_strength <= 1, f"The image strength is {self.image_strength}, but must lie in 0..1.")
        shortest, longest = self.auto_duration or (1.0, 1.0)
        require(
            0 < shortest <= longest < math.inf,
            f"auto_duration is {shortest:g} to {longest:g} seconds, but must be the shortest and the longest, above 0.",
        )

    def resolve(self, release: Release) -> "Request":
        """Fill the defaults of `release` and check sizes against its video VAE. Raises UserError."""
        defaults = dataclasses.asdict(release.sampling)
        missing = [f.name for f in FIELDS if f.name in defaults and getattr(self, f.name) is None]
        filled: dict[str, Any] = {name: defaults[name] for name in missing}
        if self.auto_duration is not None and self.num_frames is not None:
            say("note: auto_duration is ignored, since num_frames is given")
            filled["auto_duration"] = None
        elif self.auto_duration is not None:
            filled["num_frames"] = None
        if self.cfg is not None and self.audio_cfg is None:
            filled["audio_cfg"] = self.cfg  # one scale given: both streams follow it
        if self.sigmas is not None:
            filled |= {"steps": None, "schedule": None, "schedule_tokens": None}
        if self.cfg == 1:  # guidance is off, unless some other is asked for
            filled |= {name: off for name, off in (("stg", 0.0), ("modality", 1.0)) if name in missing}
        for name in ("stg_blocks", "audio_stg_blocks"):
            block, layers = max(getattr(self, name) or (0,)), release.transformer.num_layers
            require(block < layers, f"{name} names block {block}, but the transformer has 0 to {layers - 1}.")
        if max(filled.get("stg_blocks") or (0,)) >= release.transformer.num_layers:
            filled |= {"stg_blocks": None, **({"stg": 0.0} if "stg" in missing else {})}  # those of larger models
        request = dataclasses.replace(self, **filled)
        _check_text(request, release)
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

    def to_json(self) -> str:
        """The request as it is printed."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def metadata(self, prompt: str, number: int, origin: dict[str, Any]) -> dict[str, str]:
        """What a file says of clip `number` of a resolved request: all that made it. origin: of the model."""
        saved = {f.name: getattr(self, f.name) for f in FIELDS if f.metadata["saved"]}
        config = json.dumps({**origin, "sample": number, **saved})
        return {"prompt": prompt, "seed": str(self.seed), "config": config, "software": "ltx-jax"}


FIELDS = dataclasses.fields(Request)


def make_request(prompts: tuple[str, ...], settings: dict[str, Any]) -> Request:
    """A request of prompts and fields by name. Raises UserError for a name that no field has."""
    known = [f.name for f in FIELDS if f.name != "prompts"]
    for name in settings:
        require(name in known, f"There is no setting '{name}'; known: {', '.join(known)}.")
    return Request(prompts, **settings)


def read_prompts(path: str | None) -> tuple[str, ...]:
    """Prompts of a text file, one a line, empty lines skipped; () for no file. Raises UserError when there is none."""
    if path is None:
        return ()
    require(Path(path).is_file(), f"There is no prompts file '{path}'.")
    prompts = tuple(line.strip() for line in read_text(path).split("\n") if line.strip())
    require(bool(prompts), f"The prompts file '{path}' is empty; write one prompt a line.")
    return prompts


def _check_text(request: Request, release: Release) -> None:
    """Raise UserError for what the model cannot do with the text of a request."""
    require(
        request.auto_duration is None or release.duration_head is not None,
        f"The model {release.name} has no duration head to choose the number of frames: give --num_frames, or the file "
        "of the head with --duration_head.",
    )
    require(
        not request.enhance_prompt or request.image is None,
        "A prompt cannot be enhanced from a picture, as the vision tower of Gemma is not built: leave out --image or "
        "--enhance_prompt.",
    )


def _check_size(request: Request, release: Release) -> None:
    time, height, width = release.video_vae.scale_factors
    for name, value, factor in (("width", request.width, width), ("height", request.height, height)):
        require(
            value is not None and value > 0 and value % factor == 0,
            f"{name} is {value}, but must be a multiple of {factor} (the video VAE's factor), such as "
            f"{max(factor, (value or 0) // factor * factor)}.",
        )
    if request.auto_duration is not None:
        return  # the number of frames is not known yet
    frames, fps = request.num_frames or 0, request.fps or 0.0
    require(
        frames >= 1 and (frames - 1) % time == 0,
        f"num_frames is {frames}, but must be 1 + k x {time}, such as {max(0, frames - 1) // time * time + 1}.",
    )
    require(
        frames / fps <= LONGEST,
        f"{frames} frames at {fps:g} frames per second last {frames / fps:.0f} seconds, but a clip may last at most "
        f"{LONGEST:.0f}: raise the frame rate.",
    )
