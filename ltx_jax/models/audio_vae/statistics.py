"""Per-feature statistics of audio latents (spec audio_vae.md section 6): {"mean": (Z * f,), "std": (Z * f,)}.

They are stored in the token layout, channel-major (feature z * f_total + bin), and apply to latents (B, T, f, Z).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ltx_jax.config import require

Array = jax.Array
Statistics = Mapping[str, Array]


def normalize(latents: Array, statistics: Statistics) -> Array:
    """(latents - mean) / std for latents (B, T, f, Z); float32 inside. Raises UserError when the widths differ."""
    mean, std = _grids(latents, statistics)
    return ((latents.astype(jnp.float32) - mean) / std).astype(latents.dtype)


def denormalize(latents: Array, statistics: Statistics) -> Array:
    """The inverse of `normalize`: latents * std + mean."""
    mean, std = _grids(latents, statistics)
    return (latents.astype(jnp.float32) * std + mean).astype(latents.dtype)


def fit_length(latents: Array, length: int) -> Array:
    """Normalised latents (B, T, f, Z) cut to `length` frames, or filled up with zeros at the end (section 5)."""
    missing = max(0, length - latents.shape[1])
    return jnp.pad(latents[:, :length], ((0, 0), (0, missing), (0, 0), (0, 0)))


def _grids(latents: Array, statistics: Statistics) -> tuple[Array, Array]:
    """mean and std as (f, Z)."""
    bins, channels = latents.shape[-2:]
    widths = {name: statistics[name].shape for name in ("mean", "std")}
    require(
        all(shape == (bins * channels,) for shape in widths.values()),
        f"The audio statistics have the shapes {widths}, but the latents have {channels} x {bins} features.",
    )
    mean, std = (jnp.asarray(statistics[n], jnp.float32).reshape(channels, bins).T for n in ("mean", "std"))
    return mean, std
