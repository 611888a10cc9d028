"""Losses of one step and their report by noise level (spec training.md sections 2.4 and 4), in float32."""

from itertools import pairwise

import jax
import jax.numpy as jnp

from ltx_jax.errors import require

Array = jax.Array

SIGMA_BOUNDARIES = (0.0, 0.25, 0.5, 0.75, 1.0)


def masked_loss(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean squared error per sample (B,) float32 over the tokens where mask is True (4).

    prediction (B, T_all, C) and mask (B, T_all) bool may carry leading reference tokens, which are cut: target is
    (B, T, C). A sample whose mask is empty contributes 0. Unselected tokens never enter the arithmetic, NaN included.
    """
    tokens, channels = target.shape[1:]
    prediction, mask = prediction[:, -tokens:], mask[:, -tokens:]
    error = (prediction.astype(jnp.float32) - target.astype(jnp.float32)) ** 2
    total = jnp.sum(jnp.where(mask[..., None], error, 0), axis=(1, 2))  # (B,)
    return total / (channels * jnp.maximum(jnp.sum(mask, axis=1), 1))


def sigma_buckets(sigma: Array, loss: Array, boundaries: tuple[float, ...] = SIGMA_BOUNDARIES) -> tuple[Array, Array]:
    """Mean loss and number of samples per bucket of sigma, each (len(boundaries) - 1,) (2.4).

    sigma, loss: (B,). Sigmas outside the boundaries fall into the first or last bucket; an empty bucket has mean 0
    and count 0. Raises UserError when the boundaries do not increase.
    """
    rising = len(boundaries) >= 2 and all(a < b for a, b in pairwise(boundaries))
    require(rising, f"Loss buckets need at least two increasing boundaries, not {boundaries}.")
    count = len(boundaries) - 1
    bucket = jnp.clip(jnp.searchsorted(jnp.array(boundaries, jnp.float32), sigma, side="right") - 1, 0, count - 1)
    member = bucket[:, None] == jnp.arange(count)  # (B, buckets)
    samples = jnp.sum(member, axis=0)
    return jnp.sum(jnp.where(member, loss[:, None], 0), axis=0) / jnp.maximum(samples, 1), samples


def bucket_names(boundaries: tuple[float, ...] = SIGMA_BOUNDARIES) -> list[str]:
    """Metric names of `sigma_buckets`, such as `train/loss_sigma_0.00-0.25`."""
    return [f"train/loss_sigma_{low:.2f}-{high:.2f}" for low, high in pairwise(boundaries)]
