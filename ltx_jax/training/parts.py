"""Parameters of a release's parts before any training: shapes, axes and random values."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from ltx_jax.bundle import Modules
from ltx_jax.models.dit.transformer import example_inputs
from ltx_jax.models.layers import abstract_params, init_params
from ltx_jax.random import named_key
from ltx_jax.releases import Release

# Autoencoders begin with latents of little noise: at variance one, noise hides what they have yet to learn.
FIRST_LOG_VARIANCE = -6.0


def abstract_parts(release: Release, modules: Modules, parts: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes (ShapeDtypeStructs) and logical axes of the parameters of `parts`, by part. A mesh must be set."""
    pairs = {p: abstract_params(modules[p], *_example(release, modules[p], p)) for p in parts}
    return {p: shapes for p, (shapes, _) in pairs.items()}, {p: axes for p, (_, axes) in pairs.items()}


def initial_parts(release: Release, modules: Modules, parts: Sequence[str], seed: int) -> dict[str, Any]:
    """Random parameters of `parts`, by part; to be traced by `jit`. A part's values depend on (seed, part) alone."""
    keys = {p: named_key(seed, f"init.{p}") for p in parts}
    params = {p: init_params(modules[p], keys[p], *_example(release, modules[p], p)) for p in parts}
    channels = {"video_encoder": release.video_vae.latent_channels, "audio_encoder": release.audio_vae.z_channels}
    for part in set(params) & set(channels):
        bias = params[part]["conv_out"]["bias"]  # means first, then log-variances
        params[part]["conv_out"]["bias"] = bias.at[channels[part] :].set(FIRST_LOG_VARIANCE)
    return params


def _example(release: Release, module: nn.Module, part: str) -> tuple[Any, ...]:
    """The smallest inputs that `module` takes."""
    zeros = lambda *shape: np.zeros(shape, np.float32)
    audio, text = release.audio_vae, release.text
    frequencies = audio.token_width // audio.z_channels
    if part == "transformer":
        return example_inputs(release.transformer)
    if part == "connectors":
        connectors = release.connectors
        mask = np.ones((1, release.text_length), np.int32)
        return (zeros(1, release.text_length, connectors.hidden_size, connectors.num_hidden_states), mask)
    if part == "text":
        assert text is not None
        return (np.zeros((1, 8), np.int32), np.ones((1, 8), np.int32))
    time, height, width = release.video_vae.scale_factors
    examples = {
        "video_encoder": zeros(1, 1 + time, height, width, 3),
        "video_decoder": zeros(1, 2, 1, 1, release.video_vae.latent_channels),
        "audio_encoder": zeros(1, 16, audio.mel_bins, audio.in_channels),
        "audio_decoder": zeros(1, 4, frequencies, audio.z_channels),
        "vocoder": zeros(1, 16, audio.mel_bins, 2),
    }
    return (examples[part],)
