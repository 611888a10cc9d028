"""Token states of a generation: what is held fixed, what starts from noise (spec sampling.md sections 4 and 8).

A LatentState is built on the host in three steps: the initial state, conditioning items in order, noise. Items other
than a given latent frame are in items.py. Training chooses its clean tokens with the same `select_*` functions.
Letters: B batch, N tokens, C channels, U distinct values of the denoise mask, F/H/W latent frames/height/width.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ltx_jax.errors import require
from ltx_jax.rng import normal

Array = jax.Array
Grid = tuple[int, int, int]  # latent frames, rows, columns; audio is (A, 1, 1)


class LatentState(struct.PyTreeNode):
    """One modality's tokens before and after conditioning (4.1).

    latent, clean: (B, N, C), the current tokens and what fixed tokens are held to. mask: (B, N, 1) float32, 1 fully
    denoised, 0 held fixed. positions: float32 (B, axes, N, 2), host. keyframes: (B, N) bool, tokens that encode one
    single pixel frame, or None. groups (N,) int32, host, and weights (B, N) float32: who attends to whom (8.9). Tokens
    of one group see each other fully, the target (group 0) and an appended token each other with that token's weight,
    appended groups not at all; None: everything sees everything. slots: pixel frames of generated key frames, whose
    tokens begin at slot_start. grid: the target's latent grid; tokens beyond its size were appended. frozen: the whole
    modality stays at sigma 0.
    """

    latent: Array
    clean: Array
    mask: Array
    positions: np.ndarray
    keyframes: Array | None = None
    groups: np.ndarray | None = None
    weights: Array | None = None
    slots: tuple[int, ...] = struct.field(pytree_node=False, default=())
    slot_start: int = struct.field(pytree_node=False, default=0)
    grid: Grid = struct.field(pytree_node=False, default=(1, 1, 1))
    frozen: bool = struct.field(pytree_node=False, default=False)

    @property
    def target_tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


def initial_state(tokens: Array, positions: np.ndarray, grid: Grid, *, video: bool) -> LatentState:
    """State of given tokens (B, N, C) (zeros for generation from nothing), nothing held yet (4.2).

    The first latent frame of video encodes a single pixel frame and is marked so. Raises UserError when the tokens
    do not fill the grid.
    """
    batch, count, _ = tokens.shape
    require(count == grid[0] * grid[1] * grid[2], f"{count} tokens do not fill the latent grid {grid}.")
    marks = np.broadcast_to(select_frames(grid, 0, 1), (batch, count)) if video else None
    keyframes = None if marks is None else jnp.asarray(marks)
    return LatentState(tokens, tokens, jnp.ones((batch, count, 1), jnp.float32), positions, keyframes, grid=grid)


# --- which tokens ---------------------------------------------------------------------------------------------------


def select_frames(grid: Grid, start: int, count: int) -> np.ndarray:
    """(N,) bool: tokens of the latent frames [start, start + count), cut to the grid."""
    frames = np.arange(grid[0])
    return np.repeat((frames >= start) & (frames < start + count), grid[1] * grid[2])


def select_suffix(grid: Grid, count: int) -> np.ndarray:
    """(N,) bool: tokens of the last `count` latent frames."""
    return select_frames(grid, max(0, grid[0] - count), count)


def select_crop(grid: Grid, region: tuple[int, int, int, int], scale: tuple[int, int]) -> np.ndarray:
    """(N,) bool: in every frame the cells of the pixel region (y1, x1, y2, x2), bounds rounded down (8.6).

    scale: pixels per cell, (height, width).
    """
    rows, columns = np.arange(grid[1])[:, None], np.arange(grid[2])
    top, left, bottom, right = (v // s for v, s in zip(region, (*scale, *scale), strict=True))
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)  # (H, W)
    return np.tile(inside.reshape(-1), grid[0])


# --- items ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LatentAtIndex:
    """Hold latent frames of the target to given ones: first frame, prefix, suffix (8.1; for audio 8.8).

    tokens: (B, n * H * W, C) of n whole latent frames. index: the first latent frame they replace. strength: 1 holds
    them fixed, 0 ignores them.
    """

    tokens: Array
    index: int = 0
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """The state with `clean` and `mask` set on those tokens; `latent` changes only through the noiser (4.3).

        Raises UserError when the tokens do not fit the target.
        """
        per_frame = state.grid[1] * state.grid[2]
        start, stop = self.index * per_frame, self.index * per_frame + self.tokens.shape[1]
        fits = self.tokens.shape[::2] == state.latent.shape[::2] and self.tokens.shape[1] % per_frame == 0
        require(
            fits and start >= 0 and stop <= state.target_tokens,
            f"A conditioning latent of shape {tuple(self.tokens.shape)} at latent frame {self.index} does not fit the "
            f"target grid {state.grid}; give whole frames of the same batch, channels, height and width.",
        )
        return state.replace(
            clean=state.clean.at[:, start:stop].set(self.tokens.astype(state.clean.dtype)),
            mask=state.mask.at[:, start:stop].set(1 - self.strength),
        )


# --- noise and blending ---------------------------------------------------------------------------------------------


def draw_noise(keys: Array, tokens: int, channels: int) -> Array:
    """N(0, 1) noise (B, tokens, channels) float32, from one key per sample.

    A sample's noise depends on its key alone, not on batch or mesh, and more tokens keep the same first ones.
    """
    return jax.vmap(lambda key: normal(key, (tokens, channels)))(keys)


def add_state_noise(state: LatentState, noise: Array, scale: Array | float = 1.0) -> LatentState:
    """The noiser (4.3): mix noise into the latent by `scale`, then held tokens with their clean content by the mask."""
    x = (1 - scale) * state.latent.astype(jnp.float32) + scale * noise.astype(jnp.float32)
    return state.replace(latent=blend(x, state.clean, state.mask).astype(state.latent.dtype))


def freeze(state: LatentState) -> LatentState:
    """Hold every token fixed and mark the state as frozen (4.2 step 4); to be called after the noiser."""
    return state.replace(mask=jnp.zeros_like(state.mask), frozen=True)


def blend(x: Array, clean: Array, mask: Array) -> Array:
    """x mask + clean (1 - mask) in x's dtype (4.5, "post process"); mask (B, N, 1) float32."""
    return (x * mask + clean.astype(jnp.float32) * (1 - mask)).astype(x.dtype)


def clear(state: LatentState) -> LatentState:
    """The target's tokens alone, nothing held (4.6)."""
    count = state.target_tokens
    return LatentState(
        latent=state.latent[:, :count],
        clean=state.clean[:, :count],
        mask=jnp.ones_like(state.mask[:, :count]),
        positions=state.positions[:, :, :count],
        grid=state.grid,
    )


def distinct_levels(mask: Array, minimum: int = 1) -> tuple[np.ndarray, np.ndarray | None]:
    """A host mask (B, N, 1) as its distinct values (B, U) float32 and each token's index (B, N) int32.

    The index is None when U = 1. U is the largest count of any sample, at least `minimum` (a fixed U keeps programs
    equal); rows with fewer values repeat their last one.
    """
    rows = [np.unique(row, return_inverse=True) for row in np.asarray(mask)[..., 0]]
    width = max(minimum, *(len(values) for values, _ in rows))
    levels = np.stack([np.pad(values, (0, width - len(values)), mode="edge") for values, _ in rows])
    if width == 1:
        return levels.astype(np.float32), None
    return levels.astype(np.float32), np.stack([index.reshape(-1) for _, index in rows]).astype(np.int32)
