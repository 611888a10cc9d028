"""Elucidating the Design Space of Diffusion-Based Generative Models: scaling, levels, Heun's method (families.md 4)."""

import itertools
from collections.abc import Callable

import numpy as np

from ltx_jax.diffusion.families.process import Array, namespace, per_sample
from ltx_jax.errors import require

Denoiser = Callable[[Array, Array], Array]  # (x (B, ...), sigma) -> x0


def scaling(sigma: Array, data_std: float = 0.5) -> tuple[Array, Array, Array, Array]:
    """c_skip, c_out, c_in and c_noise of D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)."""
    total = sigma**2 + data_std**2
    return data_std**2 / total, sigma * data_std / total**0.5, 1 / total**0.5, namespace(sigma).log(sigma) / 4


def denoiser(network: Callable[[Array, Array], Array], data_std: float = 0.5) -> Denoiser:
    """D of a raw network F; sigma of its argument is a number or (B,)."""

    def denoise(x: Array, sigma: Array) -> Array:
        skip, out, scale, level = (per_sample(c, x) for c in scaling(sigma, data_std))
        return skip * x + out * network(scale * x, level)

    return denoise


def loss_weight(sigma: Array, data_std: float = 0.5) -> Array:
    """The weight of |D - x0|^2 that is 1 on the raw network's error."""
    return (sigma**2 + data_std**2) / (sigma * data_std) ** 2


def training_sigma(normal: Array, mean: float = -1.2, std: float = 1.2) -> Array:
    """The log-normal levels of training, from standard normal draws."""
    return namespace(normal).exp(mean + std * normal)


def sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> np.ndarray:
    """The levels of sampling, (steps + 1,) float64 from sigma_max down to sigma_min, then 0. Raises UserError."""
    return np.append(levels(steps, sigma_min, sigma_max, rho)[::-1], 0.0)


def levels(count: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> np.ndarray:
    """Levels, (count,) float64 ascending, equally far in their rho-th root; a single one is sigma_max."""
    require(count >= 1, f"A run needs at least one level, not {count}.")
    require(0 < sigma_min < sigma_max, f"Levels must rise from above 0, not from {sigma_min} to {sigma_max}.")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + np.arange(count)[::-1] / max(count - 1, 1) * (low - high)) ** rho


def step(denoise: Denoiser, x: Array, sigma: Array, sigma_next: Array) -> Array:
    """One step of Heun's method from sigma to sigma_next, Euler's where it ends at 0."""
    slope = (x - denoise(x, sigma)) / sigma
    guess = x + (sigma_next - sigma) * slope
    if sigma_next == 0:
        return guess
    other = (guess - denoise(guess, sigma_next)) / sigma_next
    return x + (sigma_next - sigma) * (slope + other) / 2


def sample(
    denoise: Denoiser,
    x: Array,
    sigmas: np.ndarray,
    noise: Array | None = None,
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = float("inf"),
    noise_scale: float = 1.0,
) -> list[Array]:
    """x (B, ...) after every step, from noise of std sigmas[0]; sigmas (N + 1,) of the host.

    churn: how much noise is added again in all, at levels in [churn_min, churn_max], from `noise` (N, B, ...) scaled by
    noise_scale.
    """
    require(churn == 0 or noise is not None, "Churn needs noise to be drawn for every step.")
    steps, track = len(sigmas) - 1, []
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        if churn > 0 and noise is not None and churn_min <= sigma <= churn_max:
            raised = sigma * (1 + min(churn / steps, 2**0.5 - 1))
            x = x + (raised**2 - sigma**2) ** 0.5 * noise_scale * noise[i]
            sigma = raised
        x = step(denoise, x, sigma, sigma_next)
        track.append(x)
    return track
