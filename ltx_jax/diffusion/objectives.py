"""What a network is trained to predict, at which noise levels, and conversions between the predictions.

Straight paths x = (1 - sigma) x0 + sigma noise; the network predicts the velocity noise - x0. Random draws are
arguments. All arithmetic is float32. Sources: spec training.md sections 2 and 3.3, sampling.md section 4.4.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from ltx_jax.errors import require

Array = jax.Array

BASE_SHIFT, MAX_SHIFT, BASE_TOKENS, MAX_TOKENS = 0.95, 2.05, 1024, 4096


@dataclasses.dataclass(frozen=True)
class SigmaConfig:
    """How training draws noise levels (training.md section 2): `uniform` or `shifted_logit_normal`.

    min_value, max_value belong to `uniform`; std, eps (reflection point) and uniform_prob (share of plain uniform
    draws) to `shifted_logit_normal`.
    """

    mode: Literal["shifted_logit_normal", "uniform"] = "shifted_logit_normal"
    min_value: float = 0.0
    max_value: float = 1.0
    std: float = 1.0
    eps: float = 1e-3
    uniform_prob: float = 0.1

    def __post_init__(self):
        span = f"{self.min_value}..{self.max_value}"
        require(0 <= self.min_value < self.max_value <= 1, f"Uniform noise levels must lie within 0..1, not {span}.")
        require(self.std > 0, f"The std of the noise levels must be positive, not {self.std}.")
        require(0 <= self.uniform_prob <= 1, f"uniform_prob must lie within 0..1, not {self.uniform_prob}.")


def sample_sigma(config: SigmaConfig, tokens: int | Array, normal: Array, uniform: Array, mix: Array) -> Array:
    """Noise levels (B,) float32 from the draws normal ~ N(0, 1), uniform and mix ~ U[0, 1), each (B,).

    tokens: the stream's number of target tokens, an int or (B,).
    """
    if config.mode == "uniform":
        return uniform_sigma(uniform, config.min_value, config.max_value)
    options = {"std": config.std, "eps": config.eps, "uniform_prob": config.uniform_prob}
    return shifted_logit_normal(tokens, normal, uniform, mix, **options)


def logit_shift(tokens: int | Array) -> float | Array:
    """Mean of the logit-normal for a token count, linear and not clamped (training.md 2.2)."""
    slope = (MAX_SHIFT - BASE_SHIFT) / (MAX_TOKENS - BASE_TOKENS)
    return slope * tokens + (BASE_SHIFT - slope * BASE_TOKENS)


def shifted_logit_normal(
    tokens: int | Array,
    normal: Array,
    uniform: Array,
    mix: Array,
    std: float = 1.0,
    eps: float = 1e-3,
    uniform_prob: float = 0.1,
) -> Array:
    """Shifted logit-normal noise levels, stretched to [0, 1] between percentiles, with uniform draws mixed in (2.2)."""
    mu = logit_shift(tokens)
    high = jax.nn.sigmoid(jnp.float32(mu + 3.0902 * std))  # 99.9th percentile
    low = jax.nn.sigmoid(jnp.float32(mu - 2.5758 * std))  # 0.5th percentile
    stretched = (jax.nn.sigmoid(std * normal + mu) - low) / (high - low)
    reflected = jnp.clip(jnp.where(stretched >= eps, stretched, 2 * eps - stretched), 0.0, 1.0)
    return jnp.where(mix > uniform_prob, reflected, (1 - eps) * uniform + eps)


def uniform_sigma(uniform: Array, min_value: float = 0.0, max_value: float = 1.0) -> Array:
    """Uniform noise levels (2.1)."""
    return uniform * (max_value - min_value) + min_value


def add_noise(x0: Array, noise: Array, sigma: Array) -> Array:
    """(1 - sigma) x0 + sigma noise, with sigma (B,) per sample or broadcastable to x0 (B, T, C) (3.3)."""
    sigma = sigma[:, None, None] if sigma.ndim == 1 else sigma
    return (1 - sigma) * x0 + sigma * noise


def velocity_target(x0: Array, noise: Array) -> Array:
    """The velocity noise - x0 that the network learns, in float32 (3.3)."""
    return noise.astype(jnp.float32) - x0.astype(jnp.float32)


def x0_from_velocity(x: Array, velocity: Array, timesteps: Array) -> Array:
    """x0 = x - v * timesteps with the per-token noise levels (B, T), in float32 (sampling.md 4.4)."""
    return x.astype(jnp.float32) - velocity.astype(jnp.float32) * timesteps[..., None]


def velocity_from_x0(x: Array, x0: Array, sigma: Array | float) -> Array:
    """(x - x0) / sigma with the scalar sigma of the schedule, which must not be 0 (sampling.md 4.4)."""
    return (x.astype(jnp.float32) - x0.astype(jnp.float32)) / sigma
