"""Text, pixels and sound to tokens and back: every journey through the encoders and decoders is written here, once.

Pure functions of arrays, given a model's networks and its parameters by part; and the programs that run them. Letters:
B clips, F/h/w frames and pixels, T video tokens, A audio tokens, S text tokens, C channels, E width of text features, Z
audio channels, f bins.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ltx_jax.bundle import Networks, abstract_weights
from ltx_jax.diffusion.geometry import patchify_audio, patchify_video, unpatchify_audio, unpatchify_video
from ltx_jax.models import latents as video_statistics
from ltx_jax.models.audio_vae import statistics as audio_statistics
from ltx_jax.models.audio_vae.mel import log_mel
from ltx_jax.models.text.features import stack_states
from ltx_jax.models.text.generation import Writing, write
from ltx_jax.models.tiling import CellTile, Factors
from ltx_jax.models.video_vae.diffusion_decoder import draw_noise
from ltx_jax.parallel.program import Program, batch_like, make_program, replicated_like

Array = jax.Array
Params = Mapping[str, Any]
Struct = jax.ShapeDtypeStruct

# Parts that each journey reads.
TEXT_ENCODER = ("text", "connectors")
DURATION = (*TEXT_ENCODER, "duration_head")
VIDEO_ENCODER = ("video_encoder", "video_statistics")
AUDIO_ENCODER = ("audio_encoder", "audio_statistics")
VIDEO_DECODER = ("video_decoder", "video_statistics")
AUDIO_DECODER = ("audio_decoder", "audio_statistics", "vocoder")


# --- pixels ---------------------------------------------------------------------------------------------------------


def to_unit(pixels: Any) -> Array:
    """uint8 pixels as the networks see them: float32 in [-1, 1]."""
    return jnp.asarray(pixels, jnp.float32) / 127.5 - 1


def to_uint8(video: Any) -> Array:
    """The inverse of `to_unit`; what lies outside is cut off."""
    return jnp.round(jnp.clip((jnp.asarray(video, jnp.float32) + 1) * 127.5, 0, 255)).astype(jnp.uint8)


# --- text -----------------------------------------------------------------------------------------------------------


def text_features(networks: Networks, params: Params, ids: Array, mask: Array) -> tuple[Array, Array]:
    """The feature extractor's output (B, S, E) and (B, S, E') for token ids and mask (B, S): before the connectors."""
    states = stack_states(networks.apply(params, "text", ids, mask))  # (L+1, B, S, D) -> (B, S, D, L+1)
    return networks.apply(params, "connectors", states, mask, method="extract")


def text_contexts(networks: Networks, params: Params, ids: Array, mask: Array) -> tuple[Array, Array]:
    """Video and audio contexts (B, S, E) of token ids and mask (B, S) int32 (spec gemma.md 1, transformer.md 12)."""
    hidden = networks.apply(params, "text", ids, mask)  # (L+1, B, S, D)
    return networks.apply(params, "connectors", stack_states(hidden), mask)


def write_text(
    networks: Networks, params: Params, ids: Array, mask: Array, key: Array, how: Writing
) -> tuple[Array, Array]:
    """New ids (B, max_new_tokens) and their count (B,) after ids and mask (B, S); key: of random draws, as its data."""
    model: Any = networks["text"]
    return write(model, params["text"], ids, mask, how, jax.random.wrap_key_data(key))


def duration_seconds(networks: Networks, params: Params, ids: Array, mask: Array) -> Array:
    """How long clips of token ids and mask (B, S) should be: seconds (B,) by the duration head."""
    return networks.apply(params, "duration_head", *text_contexts(networks, params, ids, mask))


# --- video ----------------------------------------------------------------------------------------------------------


def video_means(networks: Networks, params: Params, video: Array) -> Array:
    """Mean latents (B, F', H, W, C), not normalised, of pixels (B, F, h, w, 3) in [-1, 1]."""
    return networks.apply(params, "video_encoder", video)[0]


def video_tokens(networks: Networks, params: Params, video: Array) -> Array:
    """Normalised latent tokens (B, T, C) of pixels (B, F, h, w, 3), uint8 or in [-1, 1] (spec video_vae.md 2, 4)."""
    video = to_unit(video) if video.dtype == jnp.uint8 else video
    return patchify_video(video_statistics.normalize(video_means(networks, params, video), params["video_statistics"]))


def decode_means(networks: Networks, params: Params, latents: Array, keys: Array | None = None) -> Array:
    """uint8 pixels (B, F, h, w, 3) of latents (B, F', H, W, C) that are not normalised.

    keys: (B, 2) uint32, see `jax.random.key_data`: of the noise that a diffusion decoder begins with, and nothing to
    another; None: the same for all.
    """
    diffusion = networks.release.video_vae.diffusion
    if diffusion is None:
        return to_uint8(networks.apply(params, "video_decoder", latents))
    keys = jnp.zeros((len(latents), 2), jnp.uint32) if keys is None else keys
    noise = draw_noise(jax.random.wrap_key_data(keys), diffusion.canvas(latents.shape[1:4]), networks.dtype)
    return to_uint8(networks.apply(params, "video_decoder", latents, noise))


def decode_tile(networks: Networks, params: Params, latents: Array) -> Array:
    """Pixels (B, f, h, w, 3) float32 in [-1, 1] of normalised latents (B, F, H, W, C): a tile, still to be blended."""
    means = video_statistics.denormalize(latents, params["video_statistics"])
    return networks.apply(params, "video_decoder", means).astype(jnp.float32)


def decode_cells(networks: Networks, params: Params, latents: Array) -> Array:
    """Cells (B, T, H, W, C) that a diffusion decoder cuts into tiles, of normalised latents (spec video_vae.md 8)."""
    means = video_statistics.denormalize(latents, params["video_statistics"])
    return networks.apply(params, "video_decoder", means, method="grid")


def denoise_cells(
    networks: Networks, params: Params, cells: Array, keys: Array, start: Array, *, tile: CellTile, canvas: Factors
) -> Array:
    """Pixels (B, f, h, w, 3) float32 of the tile of `decode_cells`'s result that begins at the cell `start` (3,).

    keys: see `decode_means`; the noise is that part of the `canvas`' (frames, height, width) which the tile shows.
    """
    diffusion = networks.release.video_vae.diffusion
    assert diffusion is not None
    part = jax.lax.dynamic_slice(cells, (0, *start, 0), (len(cells), *tile.cells, cells.shape[-1]))
    pixels, first = start * jnp.asarray(diffusion.cell), 0 if tile.starts else diffusion.cell[0] - 1
    size = (tile.frames, *(n * by for n, by in zip(tile.cells[1:], diffusion.cell[1:], strict=True)))
    keys = jax.random.wrap_key_data(keys)
    noise = draw_noise(keys, canvas, networks.dtype, (pixels[0] - first, pixels[1], pixels[2]), size)
    made = networks.apply(params, "video_decoder", part, noise, tile.starts, tile.ends, method="denoise")
    return made[:, : tile.frames]


def decode_video(
    networks: Networks, params: Params, tokens: Array, keys: Array | None, grid: tuple[int, int, int]
) -> Array:
    """uint8 pixels (B, F, h, w, 3) of normalised latent tokens (B, T, C) on the latent `grid`; padding is cut.

    keys: see `decode_means`.
    """
    latents = unpatchify_video(tokens[:, : grid[0] * grid[1] * grid[2]], *grid)
    return decode_means(networks, params, video_statistics.denormalize(latents, params["video_statistics"]), keys)


def upsample_latents(networks: Networks, params: Params, latents: Array, part: str) -> Array:
    """More latents of normalised ones (B, F', H, W, C), by the upsampler `part` (spec video_vae.md 9)."""
    network = functools.partial(networks.apply, params, part)
    return video_statistics.through(network, latents, params["video_statistics"])


# --- sound ----------------------------------------------------------------------------------------------------------


def audio_means(networks: Networks, params: Params, waveform: Array) -> Array:
    """Mean latents (B, A, f, Z), not normalised, of a waveform (B, 2, L) at the VAE's rate."""
    return networks.apply(params, "audio_encoder", log_mel(waveform, networks.release.audio_vae))[0]


def audio_tokens(networks: Networks, params: Params, waveform: Array, length: int) -> Array:
    """Normalised audio tokens (B, length, Z * f) of a waveform (B, 2, L) at the VAE's rate (spec audio_vae.md 2, 5).

    Too many are cut; missing ones are zeros, as the published pre-processing does.
    """
    latents = audio_statistics.normalize(audio_means(networks, params, waveform), params["audio_statistics"])
    return patchify_audio(audio_statistics.fit_length(latents, length))


def audio_waveform(networks: Networks, params: Params, latents: Array) -> Array:
    """Waveform (B, 2, samples) float32 in [-1, 1] of latents (B, A, f, Z) that are not normalised."""
    return networks.apply(params, "vocoder", networks.apply(params, "audio_decoder", latents)).astype(jnp.float32)


def decode_audio(networks: Networks, params: Params, tokens: Array) -> Array:
    """Waveform (B, 2, samples) float32 in [-1, 1] of normalised audio tokens (B, A, C)."""
    latents = unpatchify_audio(tokens, networks.release.audio_vae.z_channels)  # (B, A, f, Z)
    return audio_waveform(networks, params, audio_statistics.denormalize(latents, params["audio_statistics"]))


# --- programs -------------------------------------------------------------------------------------------------------


def _program(
    journey: Callable[..., Any], networks: Networks, parts: tuple[str, ...], mesh: Mesh, weights: Any,
    inputs: Mapping[str, Any], out: Any = None, **static: Any,
) -> Program:  # fmt: skip
    """The program (params, *inputs) of a function of this file. inputs: abstract, by the function's names. out: the
    result's sharding, where a program takes it."""
    arguments = {"params": abstract_weights(networks, parts, mesh, weights), **inputs}
    run = functools.partial(journey, networks, **static)
    return make_program(run, arguments, mesh, weights=["params"], out_shardings=out)


def _text_program(
    journey: Any, networks: Networks, batch: int, mesh: Mesh, weights: Params | None,
    parts: tuple[str, ...] = TEXT_ENCODER,
) -> Program:  # fmt: skip
    tokens = batch_like(Struct((batch, networks.release.text_length), np.int32), mesh)
    return _program(journey, networks, parts, mesh, weights, {"ids": tokens, "mask": tokens})


# Of all programs: weights are the parameters by part, whose types are taken; None takes the networks' own.


def make_encode_text_program(networks: Networks, batch: int, mesh: Mesh, weights: Params | None = None) -> Program:
    """`text_contexts` as a program (params, ids (B, S), mask (B, S)) -> contexts (B, S, E), a pair."""
    return _text_program(text_contexts, networks, batch, mesh, weights)


def make_duration_program(networks: Networks, batch: int, mesh: Mesh, weights: Params | None = None) -> Program:
    """`duration_seconds` as a program (params, ids (B, S), mask (B, S)) -> seconds (B,)."""
    return _text_program(duration_seconds, networks, batch, mesh, weights, DURATION)


def make_write_text_program(
    networks: Networks, length: int, how: Writing, mesh: Mesh, weights: Params | None = None
) -> Program:
    """`write_text` as a program (params, ids (1, S), mask (1, S), key) of prompts of S = `length` tokens."""
    tokens = batch_like(Struct((1, length), np.int32), mesh)
    key = replicated_like(jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))), mesh)
    inputs = {"ids": tokens, "mask": tokens, "key": key}
    return _program(write_text, networks, ("text",), mesh, weights, inputs, how=how)


def make_text_features_program(networks: Networks, batch: int, mesh: Mesh, weights: Params | None = None) -> Program:
    """`text_features` as a program (params, ids (B, S), mask (B, S)) -> features (B, S, E), a pair."""
    return _text_program(text_features, networks, batch, mesh, weights)


def make_encode_video_program(networks: Networks, video: Struct, mesh: Mesh, weights: Params | None = None) -> Program:
    """`video_tokens` as a program (params, video) -> tokens (B, T, C). video: shape and type, see `video_tokens`."""
    inputs = {"video": batch_like(video, mesh)}
    return _program(video_tokens, networks, VIDEO_ENCODER, mesh, weights, inputs)


def make_encode_audio_program(
    networks: Networks, waveform: Struct, length: int, mesh: Mesh, weights: Params | None = None
) -> Program:
    """`audio_tokens` as a program (params, waveform) -> tokens (B, length, C). waveform: shape and type."""
    inputs = {"waveform": batch_like(waveform, mesh)}
    return _program(audio_tokens, networks, AUDIO_ENCODER, mesh, weights, inputs, length=length)


def make_decode_video_program(
    networks: Networks, grid: tuple[int, int, int], tokens: Any, mesh: Mesh, weights: Params | None = None
) -> Program:
    """`decode_video` as a program (params, tokens (B, T, C), keys) -> pixels. tokens: abstract, with a sharding."""
    inputs = {"tokens": tokens, "keys": _keys_like(tokens, mesh)}
    return _program(decode_video, networks, VIDEO_DECODER, mesh, weights, inputs, grid=grid)


def make_decode_tile_program(networks: Networks, latents: Struct, mesh: Mesh, weights: Params | None = None) -> Program:
    """`decode_tile` as a program (params, latents) -> pixels. latents: shape and type of a tile."""
    return _program(decode_tile, networks, VIDEO_DECODER, mesh, weights, {"latents": batch_like(latents, mesh)})


def make_decode_cells_program(
    networks: Networks, latents: Struct, mesh: Mesh, weights: Params | None = None
) -> Program:
    """`decode_cells` as a program (params, latents) -> cells. latents: shape and type."""
    inputs = {"latents": batch_like(latents, mesh)}
    out = inputs["latents"].sharding
    return _program(decode_cells, networks, VIDEO_DECODER, mesh, weights, inputs, out=out)


def make_denoise_cells_program(
    networks: Networks, cells: Struct, tile: CellTile, canvas: Factors, mesh: Mesh, weights: Params | None = None
) -> Program:
    """`denoise_cells` as a program (params, cells, keys, start) -> pixels. cells: shape and type of all of them."""
    cells = batch_like(cells, mesh)
    inputs = {"cells": cells, "keys": _keys_like(cells, mesh), "start": replicated_like(np.zeros(3, np.int32), mesh)}
    return _program(denoise_cells, networks, VIDEO_DECODER, mesh, weights, inputs, tile=tile, canvas=canvas)


def _keys_like(batch: Any, mesh: Mesh) -> Any:
    return batch_like(Struct((batch.shape[0], 2), np.uint32), mesh)


def make_decode_audio_program(networks: Networks, tokens: Any, mesh: Mesh, weights: Params | None = None) -> Program:
    """`decode_audio` as a program (params, tokens (B, A, C)) -> waveform. tokens: abstract, with a sharding."""
    return _program(decode_audio, networks, AUDIO_DECODER, mesh, weights, {"tokens": tokens})


def make_upsample_program(
    networks: Networks, part: str, latents: Struct, mesh: Mesh, weights: Params | None = None
) -> Program:
    """`upsample_latents` as a program (params, latents) -> latents. latents: shape and type."""
    inputs = {"latents": batch_like(latents, mesh)}
    return _program(upsample_latents, networks, (part, "video_statistics"), mesh, weights, inputs, part=part)
