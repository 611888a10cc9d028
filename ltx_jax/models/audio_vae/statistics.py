"""Statistics and length of audio latents (B, T, f, Z) (spec audio_vae.md sections 5 and 6)."""

import jax
import jax.numpy as jnp

from ltx_jax.errors import require
from ltx_jax.models import latents
from ltx_jax.models.latents import Statistics

Array = jax.Array


def normalize(x: Array, statistics: Statistics) -> Array:
    """(x - mean) / std; float32 inside. Raises UserError when the widths differ."""
    return latents.normalize(x, _grids(x, statistics))


def denormalize(x: Array, statistics: Statistics) -> Array:
    """The inverse of `normalize`: x * std + mean."""
    return latents.denormalize(x, _grids(x, statistics))


def fit_length(x: Array, length: int) -> Array:
    """Normalised latents cut to `length` frames, or filled up with zeros at the end (section 5)."""
    missing = max(0, length - x.shape[1])
    return jnp.pad(x[:, :length], ((0, 0), (0, missing), (0, 0), (0, 0)))


def _grids(x: Array, statistics: Statistics) -> Statistics:
    """The statistics as (f, Z); they are stored as (Z * f,) in the token layout, channel-major: z * f_total + bin."""
    bins, channels = x.shape[-2:]
    shapes = {name: statistics[name].shape for name in ("mean", "std")}
    require(
        all(shape == (bins * channels,) for shape in shapes.values()),
        f"The audio statistics have the shapes {shapes}, but the latents have {channels} x {bins} features.",
    )
    return {name: jnp.asarray(statistics[name]).reshape(channels, bins).T for name in ("mean", "std")}
