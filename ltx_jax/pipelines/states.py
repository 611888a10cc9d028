"""Sampling states of a clip's size: empty, held to what is given and noised, and as the sampler carries them.

Letters: B clips, T video tokens, A audio tokens, C channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ltx_jax.diffusion import geometry
from ltx_jax.diffusion.conditioning import LatentState, add_state_noise, freeze, initial_state
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.diffusion.items import Item
from ltx_jax.diffusion.latent_tiles import Counts
from ltx_jax.diffusion.sample import SamplerState, StreamState, make_track
from ltx_jax.diffusion.tiled import Tiles, make_tiles
from ltx_jax.models.dit.rope import rotary_tables
from ltx_jax.releases import Release
from ltx_jax.streams import pad_tail

Array = jax.Array
Draw = Callable[[int, int], Array]  # (tokens, channels) -> noise (B, tokens, channels)


def empty_video(release: Release, shape: VideoShape, batch: int) -> LatentState:
    """Zero video tokens (B, T, C) with their positions."""
    factors = release.video_vae.scale_factors
    grid = geometry.latent_shape(shape, factors)
    positions = geometry.video_positions(*grid, shape.fps, factors, batch=batch)
    zeros = jnp.zeros((batch, grid[0] * grid[1] * grid[2], release.transformer.in_channels), jnp.float32)
    return initial_state(zeros, positions, grid, video=True)


def empty_audio(release: Release, shape: VideoShape, batch: int) -> LatentState:
    """Zero audio tokens (B, A, C) with their positions."""
    tokens = geometry.audio_length(shape.frames, shape.fps)
    zeros = jnp.zeros((batch, tokens, release.transformer.audio_in_channels), jnp.float32)
    return initial_state(zeros, geometry.audio_positions(tokens, batch=batch), (tokens, 1, 1), video=False)


def begin(
    state: LatentState, start: Array | None, items: Sequence[Item], draw: Draw, sigma: float, *, frozen: bool
) -> LatentState:
    """The empty state at the first noise level, `sigma`, with what it is held to (spec sampling.md 4.2).

    start: tokens (B, T, C) to begin with, of which those of the state's grid are taken; None: zeros. frozen: it stays
    at its start, without noise.
    """
    if start is not None:
        tokens = start[:, : state.target_tokens]
        state = state.replace(latent=tokens, clean=tokens)
    for item in items:
        state = item.apply(state)
    noised = add_state_noise(state, draw(*state.latent.shape[1:]), 0.0 if frozen else sigma)
    return freeze(noised) if frozen else noised


def make_state(release: Release, video: LatentState, audio: LatentState, context: int = 1) -> SamplerState:
    """What the sampler carries. context: size of that mesh axis, which must divide the video tokens."""
    tables: Any = rotary_tables(release.transformer, video.positions[:1], audio.positions[:1])
    track = make_track(video, tables["video"], tables["video_cross"])
    return SamplerState(pad_tokens(track, context), make_track(audio, tables["audio"], tables["audio_cross"]))


def tiles_of(release: Release, video: LatentState, audio: LatentState, counts: Counts) -> Tiles:
    """The tiles in which a stage's network sees the video. Raises UserError where its latent is too small for them."""

    def tables(positions: Any) -> Any:
        found: Any = rotary_tables(release.transformer, positions, audio.positions[:1])
        return found["video"], found["video_cross"]

    return make_tiles(video, counts, tables)


def pad_tokens(track: StreamState, multiple: int) -> StreamState:
    """The track with padding at its tail, up to a multiple of `multiple` tokens; the true length is kept."""
    tokens = track.stream.latent.shape[1]
    total = tokens + -tokens % multiple
    return track.replace(stream=track.stream.padded(total), clean=pad_tail(track.clean, total))
