"""Sizes, positions and token order of video and audio latents (spec sampling.md sections 1 to 3).

Sizes and positions are host numbers (Python, NumPy); the patchifiers only reshape and take NumPy or JAX arrays.
Letters: B batch, F/H/W latent frames/height/width, C channels, T tokens, A audio tokens, Z channels and f mel bins of
an audio latent. Positions are float32 bounds [start, end) of shape (B, axes, T, 2).
"""

import dataclasses
from typing import TypeVar

import jax
import numpy as np

from ltx_jax.errors import require

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)

SCALE_FACTORS = (8, 32, 32)  # time, height, width of every published video VAE
SAMPLE_RATE, HOP_LENGTH, AUDIO_DOWNSAMPLE = 16000, 160, 4


@dataclasses.dataclass(frozen=True)
class VideoShape:
    """A clip in pixels: frames, height, width; fps in frames per second. Its seconds are frames / fps (1.2)."""

    frames: int
    height: int
    width: int
    fps: float = 24.0

    def __post_init__(self):
        sizes = (self.frames, self.height, self.width)
        require(min(sizes) >= 1, f"A clip needs at least one frame, row and column, not {sizes}.")
        require(self.fps > 0, f"The frame rate must be positive, not {self.fps}.")

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


def latent_shape(shape: VideoShape, scale_factors: tuple[int, int, int] = SCALE_FACTORS) -> tuple[int, int, int]:
    """Latent (F, H, W) of a clip (1.1). Frames beyond k * factor + 1 and partial cells are dropped silently."""
    time, height, width = scale_factors
    return (shape.frames - 1) // time + 1, shape.height // height, shape.width // width


def pixel_shape(
    latent: tuple[int, int, int], fps: float = 24.0, scale_factors: tuple[int, int, int] = SCALE_FACTORS
) -> VideoShape:
    """The clip that a latent (F, H, W) decodes to (1.1)."""
    time, height, width = scale_factors
    return VideoShape((latent[0] - 1) * time + 1, latent[1] * height, latent[2] * width, fps)


def audio_length(
    frames: int,
    fps: float,
    *,
    downsample: int = AUDIO_DOWNSAMPLE,
    hop: int = HOP_LENGTH,
    rate: int = SAMPLE_RATE,
) -> int:
    """Audio tokens of a clip of `frames` pixel frames (1.2): frames / fps seconds, rounded half to even."""
    return round(frames / fps * (rate / hop / downsample))


def latent_bounds(frames: int, height: int, width: int, *, patch_size: int = 1, batch: int = 1) -> np.ndarray:
    """Integer bounds of every token in latent cells: int32 (B, 3, T, 2), frames outermost, then rows, then columns."""
    starts = np.meshgrid(
        np.arange(frames), np.arange(0, height, patch_size), np.arange(0, width, patch_size), indexing="ij"
    )
    start = np.stack(starts).reshape(3, -1).astype(np.int32)  # (3, T)
    extent = np.array([1, patch_size, patch_size], np.int32)[:, None]
    bounds = np.stack([start, start + extent], axis=-1)  # (3, T, 2)
    return np.broadcast_to(bounds, (batch, *bounds.shape))


def pixel_bounds(
    cells: np.ndarray, scale_factors: tuple[int, int, int] = SCALE_FACTORS, *, causal_fix: bool = True
) -> np.ndarray:
    """Latent bounds (B, 3, T, 2) in pixel frames, rows and columns (2.1).

    The causal fix gives the first latent frame the single pixel frame [0, 1) that it encodes.
    """
    bounds = cells * np.array(scale_factors, np.int32)[:, None, None]
    if causal_fix:
        bounds[:, 0] = np.maximum(0, bounds[:, 0] + 1 - scale_factors[0])
    return bounds


def video_positions(
    frames: int,
    height: int,
    width: int,
    fps: float,
    scale_factors: tuple[int, int, int] = SCALE_FACTORS,
    *,
    causal_fix: bool = True,
    patch_size: int = 1,
    batch: int = 1,
) -> np.ndarray:
    """Positions of a latent grid (2.1): float32 (B, 3, T, 2), seconds, pixel rows, pixel columns."""
    cells = latent_bounds(frames, height, width, patch_size=patch_size, batch=batch)
    positions = pixel_bounds(cells, scale_factors, causal_fix=causal_fix).astype(np.float32)
    positions[:, 0] /= np.float32(fps)
    return positions


def audio_positions(
    length: int,
    *,
    shift: int = 0,
    causal: bool = True,
    downsample: int = AUDIO_DOWNSAMPLE,
    hop: int = HOP_LENGTH,
    rate: int = SAMPLE_RATE,
    batch: int = 1,
) -> np.ndarray:
    """Positions of `length` audio tokens, the first being number `shift` (2.2): float32 (B, 1, A, 2) in seconds."""
    mel = np.arange(shift, shift + length + 1, dtype=np.float32) * np.float32(downsample)
    if causal:
        mel = np.maximum(mel + np.float32(1 - downsample), 0)
    time = mel * np.float32(hop) / np.float32(rate)  # multiply first: the order decides the last bit
    bounds = np.stack([time[:-1], time[1:]], axis=-1)  # (A, 2)
    return np.broadcast_to(bounds, (batch, 1, *bounds.shape)).copy()


def before_zero(positions: np.ndarray, gap: float = 0.04) -> np.ndarray:
    """Positions (B, axes, T, 2) moved so that the last token ends `gap` seconds before 0 (8.5, dubbing)."""
    return positions - positions[:, :, -1:, 1:] - np.float32(gap)


def reference_frames(frames: int, factor: int) -> np.ndarray:
    """Pixel frames that a reference thinned by `factor` keeps: 0, 1, 1 + factor, ... (8.4)."""
    return np.append([0], np.arange(1, frames, factor)).astype(np.int32)


def reference_positions(
    grid: tuple[int, int, int],
    fps: float,
    scale_factors: tuple[int, int, int] = SCALE_FACTORS,
    *,
    first_end: float | None = None,
    downscale: int = 1,
    temporal: int = 1,
    causal_fix: bool = True,
    batch: int = 1,
) -> np.ndarray:
    """Positions of a reference video's latent grid beside its target (8.4): float32 (B, 3, R, 2).

    fps: the reference's own rate, the target's divided by `temporal`. first_end: seconds at which the target's first
    token ends (None: one frame of the target).
    """
    positions = video_positions(*grid, fps, scale_factors, causal_fix=causal_fix, batch=batch)
    if temporal != 1:
        end = 1 / (fps * temporal) if first_end is None else first_end
        positions[:, 0] = np.maximum(0, positions[:, 0] - np.float32((temporal - 1) * end))
    if downscale != 1:
        positions[:, 1:] *= np.float32(downscale)
    return positions


def keyframe_positions(
    grid: tuple[int, int, int],
    frame: int,
    fps: float,
    scale_factors: tuple[int, int, int] = SCALE_FACTORS,
    *,
    pixel_frames: int = 1,
    batch: int = 1,
) -> np.ndarray:
    """Positions of a latent grid that encodes what begins at pixel frame `frame` (8.2): float32 (B, 3, R, 2).

    pixel_frames: how many frames it encodes; a single one ends one frame after it starts, whatever the time factor.
    """
    bounds = pixel_bounds(latent_bounds(*grid, batch=batch), scale_factors, causal_fix=frame == 0)
    bounds[:, 0] += frame
    if pixel_frames == 1:
        bounds[:, 0, :, 1] = bounds[:, 0, :, 0] + 1
    positions = bounds.astype(np.float32)
    positions[:, 0] /= np.float32(fps)
    return positions


def spread_keyframes(count: int, frames: int) -> np.ndarray:
    """Pixel frames of `count` key frames spread inside a clip, ends excluded (8.3): int32 (count,).

    Raises UserError when the clip is too short.
    """
    require(frames >= count + 2, f"{count} key frames between the ends need {count + 2} frames, not {frames}.")
    return np.round(np.linspace(0, frames - 1, count + 2, dtype=np.float32)[1:-1]).astype(np.int32)


def patchify_video(latents: ArrayT, patch_size: int = 1) -> ArrayT:
    """(B, F, H, W, C) -> tokens (B, F * H/p * W/p, C * p * p), channel index c * p * p + row * p + column (3).

    Raises UserError when the patch size does not divide height and width.
    """
    b, f, h, w, c = latents.shape
    p = patch_size
    require(h % p == 0 and w % p == 0, f"The patch size {p} does not divide the latent size {h} x {w}.")
    cells = latents.reshape(b, f, h // p, p, w // p, p, c)
    return cells.transpose(0, 1, 2, 4, 6, 3, 5).reshape(b, f * (h // p) * (w // p), c * p * p)  # (B, T, C)


def unpatchify_video(tokens: ArrayT, frames: int, height: int, width: int, patch_size: int = 1) -> ArrayT:
    """The inverse of `patchify_video`: tokens of a latent grid (F, H, W) -> (B, F, H, W, C)."""
    b, p = tokens.shape[0], patch_size
    c = tokens.shape[-1] // (p * p)
    cells = tokens.reshape(b, frames, height // p, width // p, c, p, p)
    return cells.transpose(0, 1, 2, 5, 3, 6, 4).reshape(b, frames, height, width, c)


def patchify_audio(latents: ArrayT) -> ArrayT:
    """(B, A, f, Z) -> tokens (B, A, Z * f), channel index z * f_total + mel bin (3)."""
    b, a, f, z = latents.shape
    return latents.transpose(0, 1, 3, 2).reshape(b, a, z * f)


def unpatchify_audio(tokens: ArrayT, channels: int) -> ArrayT:
    """The inverse of `patchify_audio`: tokens (B, A, Z * f) with Z = `channels` -> (B, A, f, Z)."""
    b, a, width = tokens.shape
    return tokens.reshape(b, a, channels, width // channels).transpose(0, 1, 3, 2)
