"""Masks in pixels and seconds to masks of latent cells; host arrays (spec sampling.md 8.6, 8.9, training.md 7.6)."""

import numpy as np

from ltx_jax.errors import require


def latent_mask(frames: np.ndarray, grid: tuple[int, int, int], scale_factors: tuple[int, int, int]) -> np.ndarray:
    """What to keep of a clip, float32 (F, H, W) of 0 and 1, from a mask video (frames, h, w, 3) in [0, 1], 1 = keep.

    Nearest resize to the target's pixels, means of cells, then the maximum over groups of frames counted from frame 0
    (not the VAE's causal groups: the reference's quirk), zeros behind the end. A single frame holds for all.
    """
    time, height, width = scale_factors
    grey = frames.astype(np.float32).mean(axis=-1)[: (grid[0] - 1) * time + 1]
    if len(grey) == 1:
        grey = np.repeat(grey, (grid[0] - 1) * time + 1, axis=0)
    grey = grey[:, _nearest(grey.shape[1], grid[1] * height)][:, :, _nearest(grey.shape[2], grid[2] * width)]
    cells = grey.reshape(len(grey), grid[1], height, grid[2], width).mean(axis=(2, 4))  # (frames, H, W)
    missing = max(0, grid[0] * time - len(cells))
    cells = np.pad(cells, ((0, missing), (0, 0), (0, 0)))[: grid[0] * time]
    return (cells.reshape(grid[0], time, *grid[1:]).max(axis=1) > 0.5).astype(np.float32)


def audio_mask(signal: np.ndarray, length: int) -> np.ndarray:
    """What to keep of a sound, float32 (length,) of 0 and 1, from a mask (steps,) or a waveform (channels, samples).

    Of a waveform the mean of |x| counts, so that only amplitudes above one half keep anything.
    """
    flat = np.abs(signal).mean(axis=0) if signal.ndim == 2 else signal.reshape(-1)
    return (flat[_nearest(len(flat), length)] > 0.5).astype(np.float32)


def token_weights(mask: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """Attention weights of reference tokens (B, F * H * W) from a mask video (B, frames, h, w) in [0, 1] (8.9).

    Area interpolation of every frame; the first frame alone, then means of equal groups. Raises UserError when the
    frames do not divide into them.
    """
    batch, frames = mask.shape[:2]
    small = np.einsum("oh,bfhw,pw->bfop", _area(mask.shape[2], grid[1]), mask, _area(mask.shape[3], grid[2]))
    first, rest = small[:, :1], small[:, 1:]
    if grid[0] > 1:
        require(
            (frames - 1) % (grid[0] - 1) == 0 and frames > 1,
            f"A mask of {frames} frames does not divide over a reference of {grid[0]} latent frames.",
        )
        rest = rest.reshape(batch, grid[0] - 1, -1, *grid[1:]).mean(axis=2)
        first = np.concatenate([first, rest], axis=1)
    return first.reshape(batch, -1).astype(np.float32)


def conform_length(latents: np.ndarray, length: int) -> np.ndarray:
    """Audio latents (B, A, ...) cut, or padded with zeros at the end, to `length` steps (9.2)."""
    missing = max(0, length - latents.shape[1])
    padding = ((0, 0), (0, missing)) + ((0, 0),) * (latents.ndim - 2)
    return np.pad(latents, padding)[:, :length]


def _nearest(old: int, new: int) -> np.ndarray:
    """Source index of each of `new` cells: floor(i * old / new), the factor and the product in float32."""
    scale = np.float32(old / new)
    return np.minimum((np.arange(new, dtype=np.float32) * scale).astype(np.int64), old - 1)


def _area(old: int, new: int) -> np.ndarray:
    """(new, old) float32 averaging matrix: cell o takes rows floor(o n / O) .. ceil((o + 1) n / O) - 1."""
    matrix = np.zeros((new, old), np.float32)
    for o in range(new):
        start, stop = o * old // new, -(-(o + 1) * old // new)
        matrix[o, start:stop] = 1 / (stop - start)
    return matrix
