"""Training modes as declarations: which stream is noisy, which is clean, which tokens are given (spec training.md 3).

A mode says per modality: generated (noised, in the loss), frozen (clean, at sigma 0) or absent, and a list of
conditions: some tokens are kept clean, or a reference is appended, each with a probability. `noise.py` applies it.
Letters: B batch, T tokens.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from ltx_jax.config import from_mapping
from ltx_jax.diffusion.conditioning import Grid, select_crop, select_frames, select_suffix
from ltx_jax.errors import UserError, require

Array = jax.Array
Region = tuple[int, int, int, int]  # pixels: y1, x1, y2, x2

APPENDED = ("reference", "keyframes")  # conditions whose tokens stand beside the target's
_OPTIONS = {"prefix": "temporal_boundary", "suffix": "temporal_boundary", "spatial_crop": "spatial_region",
            "mask": "mask_dir", "reference": "latents_dir"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Condition:
    """What is given clean with a probability per sample (1.3, 3.4, 3.5).

    temporal_boundary: latent frames (audio: latent steps) of prefix and suffix. spatial_region: pixels (y1, x1, y2,
    x2) of spatial_crop. mask_dir: where the masks of `mask` are stored; values above 0.5 are given. latents_dir: where
    the latents of `reference` are stored. clips_only: leave clips of a single frame alone (the legacy strategies).
    keyframes (ours; sampling.md 8.2 gives them, the published trainer does not): some stills of the clip stand beside
    it, at the times of their frames; how many of those that come with the clip is drawn too.
    """

    type: Literal["first_frame", "prefix", "suffix", "spatial_crop", "mask", "reference", "keyframes"]
    probability: float = 1.0
    temporal_boundary: int | None = None
    spatial_region: Region | None = None
    mask_dir: str | None = None
    latents_dir: str | None = None
    clips_only: bool = False

    def __post_init__(self):
        require(0 <= self.probability <= 1, f"A condition's probability must lie in 0..1, not {self.probability}.")
        needed = _OPTIONS.get(self.type)
        for option in dict.fromkeys(_OPTIONS.values()):
            given = getattr(self, option) is not None
            require(given or option != needed, f"The condition '{self.type}' needs '{option}'.")
            require(not given or option == needed, f"The condition '{self.type}' takes no '{option}'.")
        boundary = self.temporal_boundary
        require(boundary is None or boundary >= 1, f"'temporal_boundary' must be at least 1, not {boundary}.")

    def selected(self, grid: Grid, scale: tuple[int, int], mask: Array | None) -> Array | np.ndarray:
        """(T,) or (B, T) bool: the given tokens. scale: pixels per cell (height, width); mask: (B, T) in [0, 1]."""
        if self.type == "mask":
            if mask is None:
                raise UserError(f"The condition 'mask' needs the stored masks of '{self.mask_dir}'.")
            return mask > 0.5
        if self.type == "first_frame":
            return select_frames(grid, 0, 0 if self.clips_only and grid[0] == 1 else 1)
        if self.spatial_region is not None:
            return select_crop(grid, self.spatial_region, scale)
        assert self.temporal_boundary is not None  # of "prefix" and "suffix", see __post_init__
        if self.type == "suffix":
            return select_suffix(grid, self.temporal_boundary)
        return select_frames(grid, 0, self.temporal_boundary)


@dataclasses.dataclass(frozen=True)
class StreamMode:
    """One modality of a mode.

    is_generated: noised and in the loss; else clean at sigma 0, and of the conditions only a reference acts.
    """

    is_generated: bool = True
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self):
        beside = [c.type for c in self.conditions if c.type in APPENDED]
        require(len(beside) <= 1, f"A stream can have one reference or key frames, not {' and '.join(beside)}.")

    @property
    def active(self) -> tuple[tuple[int, Condition], ...]:
        """The conditions that draw and act, each with its number in the list."""
        return tuple((i, c) for i, c in enumerate(self.conditions) if self.is_generated or c.type == "reference")

    @property
    def reference(self) -> Condition | None:
        """The condition that appends a reference."""
        return next((c for c in self.conditions if c.type == "reference"), None)

    @property
    def keyframes(self) -> Condition | None:
        """The condition that appends key frames to a generated stream."""
        return next((c for c in self.conditions if c.type == "keyframes" and self.is_generated), None)


@dataclasses.dataclass(frozen=True)
class Mode:
    """What a sample teaches; a stream that is None is not given to the transformer at all (1.3).

    shared_sigma: the audio takes the video's noise level (the legacy strategies, 2.3).
    """

    video: StreamMode | None = StreamMode()
    audio: StreamMode | None = StreamMode()
    shared_sigma: bool = False

    def __post_init__(self):
        generated = [s for s in (self.video, self.audio) if s is not None and s.is_generated]
        require(bool(generated), "A training mode must generate video or audio; set 'is_generated' on one of them.")
        for condition in self.audio.conditions if self.audio else ():
            spatial = condition.type in ("first_frame", "spatial_crop", "keyframes")
            require(not spatial, f"The condition '{condition.type}' exists for video only; remove it from audio.")

    def stream(self, modality: str) -> StreamMode | None:
        """The mode of "video" or "audio"."""
        return self.video if modality == "video" else self.audio


@dataclasses.dataclass(frozen=True)
class WeightedMode:
    """One mode of a mixture; weight: its share of the samples, relative to the others'."""

    name: str
    mode: Mode
    weight: float = 1.0


def parse_mixture(entries: Sequence[str]) -> tuple[WeightedMode, ...]:
    """A mixture from entries "NAME" or "NAME:WEIGHT". Raises UserError for an unknown name or a bad weight."""
    shares = []
    for entry in entries:
        name, colon, number = entry.partition(":")
        require(name in MODES, f"There is no training mode '{name}'; known: {', '.join(MODES)}.")
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            weight = 0.0
        require(0 < weight < math.inf, f"The weight in '{entry}' must be a positive number, as in '{name}:0.5'.")
        shares.append(WeightedMode(name, MODES[name], weight))
    names = [share.name for share in shares]
    require(len(set(names)) == len(names), f"A mixture names every mode once, not {', '.join(names)}.")
    return tuple(shares)


def fit_mode(
    mode: Mode, grids: Mapping[str, Grid], scale: tuple[int, int], boundary: int | None, region: Region | None
) -> Mode:
    """The mode with its prefixes, suffixes and crops as the clips want them.

    grids: latent grid by modality. scale: pixels per cell, (height, width). boundary: latent frames (audio: steps) in
    place of the declared ones, which are cut to half of a short clip. region: pixels of the crop; None: the upper half.
    Raises UserError where a condition would leave nothing to learn, or give nothing.
    """

    def fit(grid: Grid, condition: Condition) -> Condition:
        if condition.temporal_boundary is not None:
            frames = boundary or max(1, min(condition.temporal_boundary, grid[0] // 2))
            condition = dataclasses.replace(condition, temporal_boundary=frames)
        elif condition.spatial_region is not None:
            half = (0, 0, grid[1] // 2 * scale[0], grid[2] * scale[1])
            condition = dataclasses.replace(condition, spatial_region=region or half)
        else:
            return condition
        given = np.asarray(condition.selected(grid, scale, None))
        what = condition.temporal_boundary or condition.spatial_region
        require(
            bool(given.any() and not given.all()),
            f"The condition '{condition.type}' of {what} gives all or nothing of a latent of {grid}; set "
            "training.dit.temporal_boundary or training.dit.spatial_region.",
        )
        return condition

    def stream(modality: str) -> StreamMode | None:
        own = mode.stream(modality)
        if own is None or not own.is_generated:
            return own
        return dataclasses.replace(own, conditions=tuple(fit(grids[modality], c) for c in own.conditions))

    return dataclasses.replace(mode, video=stream("video"), audio=stream("audio"))


def mode_from_official(strategy: Mapping[str, Any]) -> Mode:
    """The mode that the official block `training_strategy` describes, legacy names included (1.3, 3.7).

    Raises UserError for an unknown name or key.
    """
    name = strategy.get("name", "text_to_video")
    if name == "flexible":
        streams = {m: _stream_from_official(strategy.get(m)) for m in ("video", "audio")}
        unknown = [k for k in strategy if k not in ("name", "video", "audio")]
        require(not unknown, f"Unknown key 'training_strategy.{(*unknown, '')[0]}'; known: name, video, audio.")
        return from_mapping(Mode, streams, "training_strategy")
    probability = float(strategy.get("first_frame_conditioning_p", 0.1))
    first = (Condition("first_frame", probability, clips_only=True),) if probability > 0 else ()
    if name == "text_to_video":
        audio = StreamMode() if strategy.get("with_audio") else None
        return Mode(StreamMode(conditions=first), audio, shared_sigma=True)
    if name == "video_to_video":
        folder = strategy.get("reference_latents_dir", "reference_latents")
        return Mode(StreamMode(conditions=(*first, Condition("reference", latents_dir=folder))), None)
    raise UserError(f"There is no training strategy '{name}'; known: flexible, text_to_video, video_to_video.")


def _stream_from_official(block: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The block without the folder of its own latents, which is the data's business."""
    return None if block is None else {k: v for k, v in block.items() if k != "latents_dir"}


def _video(*conditions: Condition, audio: StreamMode | None = StreamMode()) -> Mode:
    return Mode(StreamMode(conditions=conditions), audio)


def _audio(*conditions: Condition) -> Mode:
    return Mode(None, StreamMode(conditions=conditions))


_VIDEO_REFERENCE = Condition("reference", latents_dir="reference_latents")
_AUDIO_REFERENCE = Condition("reference", latents_dir="reference_audio_latents")

# Modes by name: the published presets (1.10), and key frames. Another mode is another row.
MODES: dict[str, Mode] = {
    "text_to_video": _video(),
    "text_to_video_silent": _video(audio=None),
    "image_to_video": _video(Condition("first_frame", probability=0.5)),
    "text_to_audio": _audio(),
    "audio_to_video": _video(audio=StreamMode(is_generated=False)),
    "video_to_audio": Mode(video=StreamMode(is_generated=False)),
    "video_prefix": _video(Condition("prefix", temporal_boundary=8)),
    "video_suffix": _video(Condition("suffix", temporal_boundary=8)),
    "keyframes": _video(Condition("keyframes")),
    "audio_prefix": _audio(Condition("prefix", temporal_boundary=8)),
    "audio_suffix": _audio(Condition("suffix", temporal_boundary=8)),
    "video_inpainting": _video(Condition("mask", mask_dir="video_masks"), audio=None),
    "audio_inpainting": _audio(Condition("mask", mask_dir="audio_masks")),
    "outpainting": _video(Condition("spatial_crop", spatial_region=(0, 0, 288, 576)), audio=None),
    "video_reference": _video(_VIDEO_REFERENCE, Condition("first_frame", probability=0.2), audio=None),
    "audio_reference": _audio(_AUDIO_REFERENCE),
    "audio_video_reference": _video(_VIDEO_REFERENCE, audio=StreamMode(conditions=(_AUDIO_REFERENCE,))),
}
