"""Per-channel statistics of video latents (spec video_vae.md section 2): {"mean": (C,), "std": (C,)}."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ltx_jax.config import require

Array = jax.Array
Statistics = Mapping[str, Array]


def normalize(latents: Array, statistics: Statistics) -> Array:
    """(latents - mean) / std for latents (..., C); float32 inside. Raises UserError when the widths differ."""
    mean, std = _vectors(latents, statistics)
    return ((latents.astype(jnp.float32) - mean) / std).astype(latents.dtype)


def denormalize(latents: Array, statistics: Statistics) -> Array:
    """The inverse of `normalize`: latents * std + mean."""
    mean, std = _vectors(latents, statistics)
    return (latents.astype(jnp.float32) * std + mean).astype(latents.dtype)


def _vectors(latents: Array, statistics: Statistics) -> tuple[Array, Array]:
    widths = {name: statistics[name].shape for name in ("mean", "std")}
    require(
        all(shape == latents.shape[-1:] for shape in widths.values()),
        f"The video statistics have the shapes {widths}, but the latents have {latents.shape[-1]} channels.",
    )
    return jnp.asarray(statistics["mean"], jnp.float32), jnp.asarray(statistics["std"], jnp.float32)
