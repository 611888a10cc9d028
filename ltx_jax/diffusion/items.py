"""Conditioning items beyond a given latent frame: appended tokens, masks, regions, groups (spec sampling.md 8).

Every item is a small frozen value with `apply(state) -> state`, applied in order to the state before noise. Appending
items put their tokens at the end of every field. Letters: B batch, N tokens so far, K new tokens, C channels.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.diffusion.conditioning import LatentState
from ltx_jax.errors import require
from ltx_jax.streams import group_weights

Array = jax.Array


class Item(Protocol):
    """Anything that conditions a state."""

    def apply(self, state: LatentState) -> LatentState: ...


@dataclasses.dataclass(frozen=True)
class Appended:
    """Tokens that stand beside the target: key frames, reference video, reference sound (8.2, 8.4, 8.5).

    tokens: (B, K, C). positions: (B or 1, axes, K, 2), from `geometry.keyframe_positions`, `reference_positions` or
    `before_zero`. strength: 1 holds them fixed, 0 ignores what they show.
    """

    tokens: Array
    positions: np.ndarray
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """The state with the tokens at its end. Raises UserError when they are of another batch or width."""
        return append(state, self.tokens, self.positions, 1 - self.strength)


@dataclasses.dataclass(frozen=True)
class KeyframeSlots:
    """Key frames that are generated along with the clip, at full frame rate positions (8.3).

    frames: strictly increasing pixel frames inside the clip. positions: (B or 1, 3, K, 2) of all slots. seeds: tokens
    (B, K, C) to start from when noise is below 1, or None for zeros.
    """

    frames: tuple[int, ...]
    positions: np.ndarray
    seeds: Array | None = None

    def apply(self, state: LatentState) -> LatentState:
        """The state with a slot of H * W tokens per frame. Raises UserError for a second such item or bad frames."""
        require(not state.slots, "Key frame slots are given twice; put all frames into one item.")
        rising = all(a < b for a, b in zip(self.frames, self.frames[1:], strict=False))
        require(rising and len(self.frames) > 0, f"Key frames must increase strictly, not {self.frames}.")
        batch, start, channels = state.latent.shape
        count = len(self.frames) * state.grid[1] * state.grid[2]
        zeros = jnp.zeros((batch, count, channels), state.latent.dtype)
        after = append(state, zeros, self.positions, 1.0, latent=self.seeds, keyframes=True)
        return after.replace(slots=self.frames, slot_start=start)


@dataclasses.dataclass(frozen=True)
class Masked:
    """Hold the target to given content where a mask says so: inpainting, outpainting, sound (8.6, 8.8).

    tokens: (B, T, C) of the target's full size. mask: (B or 1, T) in [0, 1], 1 = keep.
    """

    tokens: Array
    mask: Array | np.ndarray
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """The state with `clean` and `mask` blended. Raises UserError when the tokens do not have the target's size."""
        count = state.target_tokens
        require(
            self.tokens.shape == (state.latent.shape[0], count, state.latent.shape[2]) and self.mask.shape[-1] == count,
            f"Masked content of shape {tuple(self.tokens.shape)} does not have the size of the target {state.grid}.",
        )
        m = jnp.asarray(self.mask, jnp.float32)[..., None]  # (B or 1, T, 1)
        clean, mask = state.clean[:, :count], state.mask[:, :count]
        clean = (clean * (1 - m) + self.tokens * m).astype(state.clean.dtype)
        return state.replace(
            clean=state.clean.at[:, :count].set(clean),
            mask=state.mask.at[:, :count].set(mask * (1 - m) + (1 - self.strength) * m),
        )


@dataclasses.dataclass(frozen=True)
class TimeRegion:
    """Generate only what overlaps a stretch of time (seconds), and keep the rest as it is (8.7, retake)."""

    start: float
    end: float

    def apply(self, state: LatentState) -> LatentState:
        """The state with its whole mask set anew. Raises UserError when tokens were appended before."""
        require(state.latent.shape[1] == state.target_tokens, "A time region must come before appended tokens.")
        begin, end = state.positions[:, 0, :, 0], state.positions[:, 0, :, 1]  # (B, N)
        inside = (end > np.float32(self.start)) & (begin < np.float32(self.end))
        mask = np.broadcast_to(inside[..., None], state.mask.shape).astype(np.float32)
        return state.replace(mask=jnp.asarray(mask))


@dataclasses.dataclass(frozen=True)
class Weighted:
    """An appending item whose tokens and the target attend to each other with a weight (8.9).

    weight: a number, (K,) or (B, K) in [0, 1].
    """

    item: Item
    weight: float | Array | np.ndarray

    def apply(self, state: LatentState) -> LatentState:
        """The item's state, with the new tokens as a group of their own."""
        before = state
        if before.groups is None:
            batch, count, _ = state.latent.shape
            earlier = np.arange(count) >= state.target_tokens  # these and the target see each other, as before
            before = state.replace(groups=earlier.astype(np.int32), weights=jnp.ones((batch, count), jnp.float32))
        after = self.item.apply(before)
        new = after.latent.shape[1] - before.latent.shape[1]
        require(new > 0, "Only items that append tokens can have an attention weight.")
        assert after.weights is not None
        return after.replace(weights=after.weights.at[:, -new:].set(self.weight))


def append(
    state: LatentState,
    clean: Array,
    positions: np.ndarray,
    mask: float,
    *,
    latent: Array | None = None,
    keyframes: bool = False,
) -> LatentState:
    """The state with new tokens (B, K, C) at its end; latent: what they are before noise, zeros for None.

    Where groups exist the new tokens become one more, with weight 1.
    """
    batch, _, channels = state.latent.shape
    fits = clean.shape[0] == batch and clean.shape[2] == channels and positions.shape[2] == clean.shape[1]
    require(
        fits,
        f"Appended tokens of shape {tuple(clean.shape)} at {positions.shape[2]} positions do not fit a state of "
        f"{tuple(state.latent.shape)}.",
    )
    count = clean.shape[1]
    latent = jnp.zeros_like(clean) if latent is None else latent
    join = lambda old, new: jnp.concatenate([old, new.astype(old.dtype)], axis=1)
    positions = np.broadcast_to(positions, (state.positions.shape[0], *positions.shape[1:]))
    fields = {
        "latent": join(state.latent, latent),
        "clean": join(state.clean, clean),
        "mask": join(state.mask, jnp.full((batch, count, 1), mask, jnp.float32)),
        "positions": np.concatenate([state.positions, positions.astype(np.float32)], axis=2),
    }
    if state.keyframes is not None:
        fields["keyframes"] = join(state.keyframes, jnp.full((batch, count), keyframes))
    if state.groups is not None:
        assert state.weights is not None
        fields["groups"] = np.append(state.groups, np.full(count, max(1, state.groups.max()) + 1, np.int32))
        fields["weights"] = join(state.weights, jnp.ones((batch, count), jnp.float32))
    return state.replace(**fields)


def generated_keyframes(state: LatentState) -> Array:
    """Tokens of the generated key frames, (B, slots, H * W, C); to be read before `clear` (4.6)."""
    per_slot = state.grid[1] * state.grid[2]
    tokens = state.latent[:, state.slot_start : state.slot_start + len(state.slots) * per_slot]
    return tokens.reshape(tokens.shape[0], len(state.slots), per_slot, tokens.shape[2])


def attention_weights(state: LatentState) -> Array | None:
    """The groups as a dense (B, N, N) array of weights, for small sizes and the reference attention; None for none."""
    if state.groups is None or state.weights is None:
        return None
    return group_weights(jnp.asarray(state.groups)[None], state.weights)
