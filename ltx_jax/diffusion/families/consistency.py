"""Consistency models: one step from any level to data, distilled or trained alone (families.md 6).

Consistency Models (CD, CT); Improved Techniques for Training Consistency Models (iCT). Levels t are those of EDM,
ascending from `least` = 0.002 to 80; x = x0 + t z.
"""

import math
from collections.abc import Callable

import numpy as np

from ltx_jax.diffusion.families.edm import Denoiser, scaling
from ltx_jax.diffusion.families.edm import step as teacher_step
from ltx_jax.diffusion.families.process import Array, namespace, per_sample

Consistency = Callable[[Array, Array], Array]  # (x (B, ...), t) -> x at the least level

LEAST, MOST = 0.002, 80.0


def boundary_scaling(t: Array, data_std: float = 0.5, least: float = LEAST) -> tuple[Array, Array]:
    """c_skip and c_out of f = c_skip x + c_out F: 1 and 0 at the least level."""
    lifted = t - least
    return data_std**2 / (lifted**2 + data_std**2), data_std * lifted / (t**2 + data_std**2) ** 0.5


def function(network: Callable[[Array, Array], Array], data_std: float = 0.5, least: float = LEAST) -> Consistency:
    """f of a raw network F(c_in x, c_noise), with EDM's scaling of its inputs."""

    def apply(x: Array, t: Array) -> Array:
        skip, out = (per_sample(c, x) for c in boundary_scaling(t, data_std, least))
        _, _, scale, level = (per_sample(c, x) for c in scaling(t, data_std))
        return skip * x + out * network(scale * x, level)

    return apply


def flow_function(velocity: Callable[[Array, Array], Array]) -> Consistency:
    """f of a velocity on the straight path, whose boundary lies at sigma = 0."""
    return lambda x, sigma: x - per_sample(sigma, x) * velocity(x, sigma)


def multistep(f: Consistency, x: Array, most: Array, taus: np.ndarray, noise: Array, least: float = LEAST) -> Array:
    """A sample of x (B, ...) at level `most`: data, noised to each of taus (N,) descending with noise (N, B, ...)."""
    x = f(x, most)
    for tau, z in zip(taus, noise, strict=True):
        x = f(x + (tau**2 - least**2) ** 0.5 * z, tau)
    return x


def flow_multistep(f: Consistency, x: Array, sigmas: np.ndarray, noise: Array) -> Array:
    """The same on the straight path: from sigmas[0], noised to each later one with noise (N - 1, B, ...)."""
    x = f(x, sigmas[0])
    for sigma, z in zip(sigmas[1:], noise, strict=True):
        x = f((1 - sigma) * x + sigma * z, sigma)
    return x


def distillation_pair(denoise: Denoiser, x0: Array, z: Array, t: Array, t_below: Array) -> tuple[Array, Array]:
    """x at level t and where the teacher's Heun step takes it at t_below; numbers of the host, t_below > 0."""
    x = x0 + t * z
    return x, teacher_step(denoise, x, t, t_below)


def training_pair(x0: Array, z: Array, t: Array, t_below: Array) -> tuple[Array, Array]:
    """x at both levels with the same noise: the pair of training without a teacher."""
    return x0 + per_sample(t, x0) * z, x0 + per_sample(t_below, x0) * z


# --- curricula, weights and distances -------------------------------------------------------------------------------


def levels_at(step: int, total: int, first: int = 2, last: int = 150) -> int:
    """How many levels CT uses at a training step."""
    square = step / total * ((last + 1) ** 2 - first**2) + first**2
    return math.ceil(math.sqrt(square) - 1) + 1


def ema_at(step: int, total: int, first: int = 2, last: int = 150, decay: float = 0.9) -> float:
    """The decay of CT's target network at a training step."""
    return math.exp(first * math.log(decay) / levels_at(step, total, first, last))


def doubling_levels_at(step: int, total: int, first: int = 10, last: int = 1280) -> int:
    """How many levels iCT uses at a training step: they double at equal intervals."""
    interval = max(1, math.floor(total / (math.log2(math.floor(last / first)) + 1)))
    return min(first * 2 ** (step // interval), last) + 1


def pair_probabilities(levels: np.ndarray, mean: float = -1.1, std: float = 2.0) -> np.ndarray:
    """The probability (N - 1,) with which iCT draws the pair (i, i + 1) of ascending levels (N,)."""
    reached = np.array([math.erf((math.log(t) - mean) / (math.sqrt(2) * std)) for t in levels])
    return np.diff(reached) / (reached[-1] - reached[0])


def pair_weights(levels: np.ndarray) -> np.ndarray:
    """The weight (N - 1,) of the pair (i, i + 1): one over its width."""
    return 1 / np.diff(levels)


def huber_constant(dims: int) -> float:
    """The c of `pseudo_huber` for data of `dims` elements."""
    return 0.00054 * math.sqrt(dims)


def pseudo_huber(x: Array, y: Array, c: float) -> Array:
    """sqrt(|x - y|^2 + c^2) - c per sample (B,), with the norm over all elements."""
    square = ((x - y).reshape(len(x), -1) ** 2).sum(axis=1)
    return namespace(square).sqrt(square + c**2) - c
