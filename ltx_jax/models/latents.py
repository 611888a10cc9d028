"""What the autoencoders' latents have in common: a draw from their moments, and their statistics.

Statistics are {"mean", "std"}, stored beside the weights: of video latents per channel, of audio latents per feature of
a token (models/audio_vae/statistics.py lays those out as latents).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ltx_jax.errors import require

Array = jax.Array
Statistics = Mapping[str, Array]

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0
# Autoencoders begin with latents of little noise: at variance one, noise hides what they have yet to learn.
FIRST_LOG_VARIANCE = -6.0


def clip_log_variance(log_variance: Array) -> Array:
    """The log-variance in the range that is used, float32 (spec video_vae.md section 2)."""
    return jnp.clip(log_variance.astype(jnp.float32), MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)


def sample_latents(means: Array, log_variance: Array, noise: Array) -> Array:
    """A draw from the moments, not normalised: means + exp(log_variance / 2) noise, float32, all of one shape."""
    return means.astype(jnp.float32) + jnp.exp(0.5 * clip_log_variance(log_variance)) * noise


def normalize(latents: Array, statistics: Statistics) -> Array:
    """(latents - mean) / std, in float32, returned in latents' dtype; statistics have the shape of the last axes.

    Raises UserError when the shapes differ.
    """
    mean, std = _of(latents, statistics)
    return ((latents.astype(jnp.float32) - mean) / std).astype(latents.dtype)


def denormalize(latents: Array, statistics: Statistics) -> Array:
    """The inverse of `normalize`: latents * std + mean."""
    mean, std = _of(latents, statistics)
    return (latents.astype(jnp.float32) * std + mean).astype(latents.dtype)


def through(network: Callable[[Array], Array], latents: Array, statistics: Statistics) -> Array:
    """What `network` makes of normalised latents, where it takes and gives those that are not, normalised again."""
    return normalize(network(denormalize(latents, statistics)), statistics)


def _of(latents: Array, statistics: Statistics) -> tuple[Array, Array]:
    shapes = {name: statistics[name].shape for name in ("mean", "std")}
    require(
        all(shape == latents.shape[-len(shape) :] for shape in shapes.values()),
        f"The latents' statistics have the shapes {shapes}, which do not end {latents.shape}, that of the latents.",
    )
    return jnp.asarray(statistics["mean"], jnp.float32), jnp.asarray(statistics["std"], jnp.float32)


def with_little_noise(encoder: dict[str, Any], channels: int) -> dict[str, Any]:
    """Random parameters of an encoder whose last biases, means first, then log-variances, make latents of little noise.

    channels: of the means.
    """
    last = encoder["conv_out"]
    bias = last["bias"].at[channels:].set(FIRST_LOG_VARIANCE)
    return encoder | {"conv_out": last | {"bias": bias}}
