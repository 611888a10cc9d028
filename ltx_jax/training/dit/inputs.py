"""Sizes and shapes of what the transformer's objective reads: clips, references, text, rotary tables.

Host numbers and ShapeDtypeStructs only. Letters: B batch, T video tokens, A audio tokens, S text tokens, E width of
text features.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.diffusion.conditioning import Grid
from ltx_jax.diffusion.geometry import (
    VideoShape,
    audio_length,
    audio_positions,
    keyframe_positions,
    latent_shape,
    reference_positions,
    video_positions,
)
from ltx_jax.errors import require
from ltx_jax.models.dit.rope import rotary_tables
from ltx_jax.releases import Release
from ltx_jax.streams import MODALITIES, Rotary
from ltx_jax.training.config import DiTStageConfig, ReferenceConfig


@dataclasses.dataclass(frozen=True)
class ClipSizes:
    """Latent sizes of the clips of one shape.

    grid: of the video. audio_tokens: of the sound. cell: pixels per latent cell, (height, width). reference: grid of
    the reference video; reference_audio: tokens of the reference sound; empty where no mode has one. keyframes: stills
    that come with a clip, 0 where no mode appends them. frames: of the clip, in pixels. padded: video tokens, those
    beside them included, rounded up to a multiple of the mesh's context axis.
    """

    grid: Grid
    audio_tokens: int
    cell: tuple[int, int]
    reference: Grid | None
    reference_audio: int
    keyframes: int
    frames: int
    padded: int

    @property
    def grids(self) -> dict[str, Grid]:
        """Latent grid by modality."""
        return {"video": self.grid, "audio": (self.audio_tokens, 1, 1)}

    @property
    def video_tokens(self) -> int:
        """Tokens of the video, without a reference."""
        return math.prod(self.grid)

    @property
    def reference_tokens(self) -> int:
        """Tokens of the reference video."""
        return math.prod(self.reference or (0,))

    @property
    def still_tokens(self) -> int:
        """Tokens of one still."""
        return math.prod(self.grid[1:])


def reference_shape(shape: VideoShape, config: ReferenceConfig) -> VideoShape:
    """The reference of a clip of this shape (spec training.md 7.5). Raises UserError when a factor does not divide."""
    d, s = config.downscale, config.temporal
    divides = shape.height % d == 0 and shape.width % d == 0 and (shape.frames - 1) % s == 0
    size = f"{shape.frames} frames of {shape.width} x {shape.height}"
    require(divides, f"A reference {d} times smaller, of every {s}th frame, does not fit a clip of {size}.")
    return VideoShape(1 + (shape.frames - 1) // s, shape.height // d, shape.width // d, shape.fps / s)


def clip_sizes(release: Release, config: DiTStageConfig, shape: VideoShape, context: int = 1) -> ClipSizes:
    """The sizes for clips of one shape; context: size of the mesh axis that the video tokens are spread over."""
    factors = release.video_vae.scale_factors
    grid, audio = latent_shape(shape, factors), audio_length(shape.frames, shape.fps)
    reference, beside = None, 0
    if has_reference(config, "video"):
        small = reference_shape(shape, config.reference or ReferenceConfig())
        reference = latent_shape(small, factors)
        aligned = (small.frames - 1) % factors[0] == small.height % factors[1] == small.width % factors[2] == 0
        require(
            aligned, f"The reference of {small.frames} frames of {small.width} x {small.height} is no whole latent."
        )
        beside = math.prod(reference)
    stills = config.keyframes if has_keyframes(config) else 0
    require(
        stills <= shape.frames,
        f"Clips of {shape.frames} frames do not have {stills} different stills: lower training.dit.keyframes.",
    )
    tokens = math.prod(grid) + max(beside, stills * math.prod(grid[1:]))
    sound = audio if has_reference(config, "audio") else 0
    padded = -(-tokens // context) * context
    return ClipSizes(grid, audio, factors[1:], reference, sound, stills, shape.frames, padded)


def has_reference(config: DiTStageConfig, modality: str) -> bool:
    """Whether a mode of the stage appends a reference to the stream."""
    streams = (share.mode.stream(modality) for share in config.mixture())
    return any(s is not None and s.reference is not None for s in streams)


def has_keyframes(config: DiTStageConfig) -> bool:
    """Whether a mode of the stage appends key frames to the video."""
    streams = (share.mode.video for share in config.mixture())
    return any(s is not None and s.keyframes is not None for s in streams)


def dit_tables(release: Release, sizes: ClipSizes, config: DiTStageConfig, fps: float) -> dict[str, Rotary]:
    """The rotary tables of the clips, behind them references, behind these stills of every frame; host arrays."""
    factors, small = release.video_vae.scale_factors, config.reference or ReferenceConfig()
    video, audio = video_positions(*sizes.grid, fps, factors), audio_positions(sizes.audio_tokens)
    if sizes.reference is not None:
        beside = reference_positions(
            sizes.reference, fps / small.temporal, factors, first_end=1 / fps, downscale=small.downscale,
            temporal=small.temporal,
        )  # fmt: skip
        video = np.concatenate([video, beside], axis=2)
    if sizes.keyframes:
        still = (1, *sizes.grid[1:])
        stills = [keyframe_positions(still, frame, fps, factors) for frame in range(sizes.frames)]
        video = np.concatenate([video, *stills], axis=2)
    if sizes.reference_audio:
        audio = np.concatenate([audio, audio_positions(sizes.reference_audio)], axis=2)
    tables = rotary_tables(release.transformer, video, audio)
    return {name: table for name, table in tables.items() if table is not None}


def abstract_batch(release: Release, sizes: ClipSizes, config: DiTStageConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes of a batch and of the empty caption, ShapeDtypeStructs; see `dit.DiTObjective` for their meaning."""
    b, s, dit = config.batch_size, release.text_length, release.transformer
    struct = jax.ShapeDtypeStruct
    empty = {"text_mask": struct((s,), jnp.int32)}
    if config.train_text:
        empty["text_ids"] = struct((s,), jnp.int32)
    else:
        dtype = jnp.dtype(config.dtype)
        for name, own in (("video", release.connectors.video), ("audio", release.connectors.audio)):
            empty[f"{name}_features"] = struct((s, own.width), dtype)
    channels = {"video": dit.in_channels, "audio": dit.audio_in_channels}
    tokens = {"video": sizes.video_tokens, "audio": sizes.audio_tokens}
    references = {"video": sizes.reference_tokens, "audio": sizes.reference_audio}
    batch: dict[str, Any] = {"has_audio": struct((b,), jnp.bool_)}
    if sizes.keyframes:
        batch["video_keyframes"] = struct((b, sizes.keyframes * sizes.still_tokens, channels["video"]), jnp.float32)
        batch["keyframes"] = struct((b, sizes.keyframes), jnp.int32)
    for m in MODALITIES:
        batch[m] = struct((b, tokens[m], channels[m]), jnp.float32)
        if references[m]:
            batch[f"{m}_reference"] = struct((b, references[m], channels[m]), jnp.float32)
        if config.stored_masks and mask_folders(config, m):
            batch[f"{m}_mask"] = struct((b, tokens[m]), jnp.float32)
    return batch | {name: struct((b, *x.shape), x.dtype) for name, x in empty.items()}, empty


def mask_folders(config: DiTStageConfig, modality: str) -> set[str]:
    """The names of the masks that the stage's modes ask for."""
    streams = (share.mode.stream(modality) for share in config.mixture())
    return {c.mask_dir for s in streams if s is not None for c in s.conditions if c.mask_dir is not None}
