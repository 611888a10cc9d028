"""Parameters of a release's parts before any training: random values (shapes and axes: see bundle.py)."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ltx_jax.bundle import Modules, abstract_parts, example_inputs_of
from ltx_jax.models.audio_vae.mel import LOG_FLOOR
from ltx_jax.models.layers import init_params
from ltx_jax.releases import Release
from ltx_jax.rng import named_key

__all__ = ["abstract_parts", "initial_parts"]

# Autoencoders begin with latents of little noise: at variance one, noise hides what they have yet to learn.
FIRST_LOG_VARIANCE = -6.0
# A vocoder begins quiet: what is loud and wrong is unlearned first, and takes all that the random layers can say along.
FIRST_LOUDNESS = 0.05


def initial_parts(release: Release, modules: Modules, parts: Sequence[str], seed: int) -> dict[str, Any]:
    """Random parameters of `parts`, by part; to be traced by `jit`. A part's values depend on (seed, part) alone."""
    keys = {p: named_key(seed, f"init.{p}") for p in parts}
    params = {p: init_params(modules[p], keys[p], *example_inputs_of(release, p)) for p in parts}
    channels = {"video_encoder": release.video_vae.latent_channels, "audio_encoder": release.audio_vae.z_channels}
    for part in set(params) & set(channels):
        bias = params[part]["conv_out"]["bias"]  # means first, then log-variances
        params[part]["conv_out"]["bias"] = bias.at[channels[part] :].set(FIRST_LOG_VARIANCE)
    if "vocoder" in params:
        params["vocoder"]["generator"] = _quiet(params["vocoder"]["generator"])
    return params


def _quiet(generator: dict[str, Any]) -> dict[str, Any]:
    """The generator with a softer last layer, and a first one that turns silence into zeros."""
    first, last = generator["conv_pre"], generator["conv_post"]
    first = first | {"bias": -math.log(LOG_FLOOR) * jnp.sum(first["kernel"], (0, 1))}
    return generator | {"conv_pre": first, "conv_post": last | {"kernel": FIRST_LOUDNESS * last["kernel"]}}
