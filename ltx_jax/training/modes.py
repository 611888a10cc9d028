"""Training modes as declarations: which stream is noisy, which is clean, which tokens are given (spec training.md 3).

A mode says per modality: generated (noised, in the loss), frozen (clean, at sigma 0) or absent, and a list of
conditions that keep some tokens clean with a probability. `noise_stream` applies it; it may be jitted and takes all
random draws as arguments. Letters: B batch, T tokens, C channels, K conditions.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ltx_jax.config import require
from ltx_jax.diffusion.conditioning import Grid, select_crop, select_frames, select_suffix
from ltx_jax.diffusion.objectives import SigmaConfig, add_noise, sample_sigma, velocity_target
from ltx_jax.random import named_key
from ltx_jax.streams import length_mask

Array = jax.Array

_OPTIONS = {"prefix": "temporal_boundary", "suffix": "temporal_boundary", "spatial_crop": "spatial_region",
            "mask": "mask_dir"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Condition:
    """Tokens that are given clean with a probability per sample (1.3, 3.4).

    temporal_boundary: latent frames (audio: latent steps) of prefix and suffix. spatial_region: pixels (y1, x1, y2,
    x2) of spatial_crop. mask_dir: where the masks of `mask` are stored; values above 0.5 are given.
    """

    type: Literal["first_frame", "prefix", "suffix", "spatial_crop", "mask"]
    probability: float = 1.0
    temporal_boundary: int | None = None
    spatial_region: tuple[int, int, int, int] | None = None
    mask_dir: str | None = None

    def __post_init__(self):
        require(0 <= self.probability <= 1, f"A condition's probability must lie in 0..1, not {self.probability}.")
        needed = _OPTIONS.get(self.type)
        for option in ("temporal_boundary", "spatial_region", "mask_dir"):
            given = getattr(self, option) is not None
            require(given or option != needed, f"The condition '{self.type}' needs '{option}'.")
            require(not given or option == needed, f"The condition '{self.type}' takes no '{option}'.")
        boundary = self.temporal_boundary
        require(boundary is None or boundary >= 1, f"'temporal_boundary' must be at least 1, not {boundary}.")

    def selected(self, grid: Grid, scale: tuple[int, int], mask: Array | None) -> Array | np.ndarray:
        """(T,) or (B, T) bool: the given tokens. scale: pixels per cell (height, width); mask: (B, T) in [0, 1]."""
        if self.type == "mask":
            require(mask is not None, f"The condition 'mask' needs the stored masks of '{self.mask_dir}'.")
            return mask > 0.5  # type: ignore[operator]
        if self.type == "spatial_crop":
            return select_crop(grid, self.spatial_region, scale)  # type: ignore[arg-type]
        if self.type == "suffix":
            return select_suffix(grid, self.temporal_boundary)  # type: ignore[arg-type]
        return select_frames(grid, 0, 1 if self.type == "first_frame" else self.temporal_boundary)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class StreamMode:
    """One modality of a mode.

    is_generated: noised and in the loss; else clean at sigma 0, and conditions draw and do nothing.
    """

    is_generated: bool = True
    conditions: tuple[Condition, ...] = ()

    @property
    def active(self) -> tuple[Condition, ...]:
        """The conditions that draw and act."""
        return self.conditions if self.is_generated else ()


@dataclasses.dataclass(frozen=True)
class Mode:
    """What one training run learns; a stream that is None is not given to the transformer at all (1.3)."""

    video: StreamMode | None = StreamMode()
    audio: StreamMode | None = StreamMode()

    def __post_init__(self):
        generated = [s for s in (self.video, self.audio) if s is not None and s.is_generated]
        require(bool(generated), "A training mode must generate video or audio; set 'is_generated' on one of them.")
        for condition in self.audio.conditions if self.audio else ():
            spatial = condition.type in ("first_frame", "spatial_crop")
            require(not spatial, f"The condition '{condition.type}' exists for video only; remove it from audio.")


# Modes by name (1.10). Another mode is another row.
MODES: dict[str, Mode] = {
    "text_to_video": Mode(),
    "text_to_video_silent": Mode(audio=None),
    "image_to_video": Mode(video=StreamMode(conditions=(Condition("first_frame", probability=0.5),))),
    "text_to_audio": Mode(video=None),
    "audio_to_video": Mode(audio=StreamMode(is_generated=False)),
    "video_to_audio": Mode(video=StreamMode(is_generated=False)),
}


@struct.dataclass
class Draws:
    """All randomness of one generated stream: normal, uniform, mix (B,); noise (B, T, C); conditions K times (B,)."""

    normal: Array
    uniform: Array
    mix: Array
    noise: Array
    conditions: tuple[Array, ...] = ()


@struct.dataclass
class NoisyStream:
    """A stream as the transformer gets it, and what it should answer.

    latent (B, T, C); sigma (B,); levels (B, U) with level_index (B, T) into them, None when U = 1; targets (B, T, C)
    and loss_mask (B, T) bool, None for a frozen stream.
    """

    latent: Array
    sigma: Array
    levels: Array
    level_index: Array | None = None
    targets: Array | None = None
    loss_mask: Array | None = None


def draw(keys: Array, mode: StreamMode, tokens: int, channels: int) -> Draws | None:
    """Draws for a batch from one key per sample (B,), so that batch size and mesh do not change them.

    None for a frozen stream, which draws nothing. Use different keys for video and audio.
    """
    if not mode.is_generated:
        return None

    def one(key: Array) -> Draws:
        return Draws(
            normal=jax.random.normal(named_key(key, "normal")),
            uniform=jax.random.uniform(named_key(key, "uniform")),
            mix=jax.random.uniform(named_key(key, "mix")),
            noise=jax.random.normal(named_key(key, "noise"), (tokens, channels), jnp.float32),
            conditions=tuple(jax.random.uniform(named_key(key, "condition", i)) for i in range(len(mode.active))),
        )

    return jax.vmap(one)(keys)


def noise_stream(
    mode: StreamMode,
    x0: Array,
    draws: Draws | None,
    grid: Grid,
    *,
    sigmas: SigmaConfig = SigmaConfig(),
    scale: tuple[int, int] = (32, 32),
    masks: tuple[Array | None, ...] = (),
    length: Array | None = None,
) -> NoisyStream:
    """Noise clean tokens x0 (B, T, C) of a latent grid (audio: (A, 1, 1)) as the mode says (3.3, 3.4).

    scale: pixels per latent cell, (height, width). masks: per condition the stored mask (B, T), None for the others.
    length: (B,) real tokens where the tail is padding; padding is in no loss and does not count for the sigmas.
    """
    batch, tokens, _ = x0.shape
    if draws is None:
        zero = jnp.zeros((batch,), jnp.float32)
        return NoisyStream(x0, zero, zero[:, None])
    count = tokens if length is None else length
    sigma = sample_sigma(sigmas, count, draws.normal, draws.uniform, draws.mix)
    given = jnp.zeros((batch, tokens), bool)
    for i, condition in enumerate(mode.active):
        selected = jnp.asarray(condition.selected(grid, scale, masks[i] if masks else None))
        given |= (draws.conditions[i] < condition.probability)[:, None] & selected
    x0 = x0.astype(jnp.float32)
    noisy = NoisyStream(
        latent=jnp.where(given[..., None], x0, add_noise(x0, draws.noise, sigma)),
        sigma=sigma,
        levels=sigma[:, None],
        targets=velocity_target(x0, draws.noise),
        loss_mask=length_mask(length, batch, tokens) & ~given,
    )
    if not mode.active:
        return noisy
    levels = jnp.stack([sigma, jnp.zeros_like(sigma)], axis=1)  # (B, 2): noisy, given
    return noisy.replace(levels=levels, level_index=given.astype(jnp.int32))
