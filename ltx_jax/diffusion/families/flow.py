"""Flow matching and rectified flow: solvers along the velocity, and the way to the other families (families.md 0, 5).

x = (1 - sigma) x0 + sigma e, velocity u = e - x0, sigma from 1 to 0.
"""

import itertools
from collections.abc import Callable

import numpy as np

from ltx_jax.diffusion.families.process import Array
from ltx_jax.errors import require

Velocity = Callable[[Array, Array], Array]  # (x (B, ...), sigma) -> u


def euler(velocity: Velocity, x: Array, sigma: Array, sigma_next: Array) -> Array:
    """One step of Euler's method: order 1."""
    return x + (sigma_next - sigma) * velocity(x, sigma)


def heun(velocity: Velocity, x: Array, sigma: Array, sigma_next: Array) -> Array:
    """One step of Heun's method: order 2."""
    h, slope = sigma_next - sigma, velocity(x, sigma)
    return x + h / 2 * (slope + velocity(x + h * slope, sigma_next))


def midpoint(velocity: Velocity, x: Array, sigma: Array, sigma_next: Array) -> Array:
    """One step of the midpoint method: order 2."""
    h = sigma_next - sigma
    return x + h * velocity(x + h / 2 * velocity(x, sigma), sigma + h / 2)


SOLVERS = {"euler": euler, "heun": heun, "midpoint": midpoint}


def sample(solver: str, velocity: Velocity, x: Array, sigmas: np.ndarray) -> Array:
    """The sample of noise x (B, ...) along sigmas (N + 1,) of the host. Raises UserError on an unknown solver."""
    require(solver in SOLVERS, f"There is no solver '{solver}'; choose one of {', '.join(SOLVERS)}.")
    for sigma, sigma_next in itertools.pairwise(sigmas):
        x = SOLVERS[solver](velocity, x, sigma, sigma_next)
    return x


def stochastic_step(
    velocity: Velocity, x: Array, sigma: Array, sigma_next: Array, strength: Array, noise: Array
) -> Array:
    """One Euler-Maruyama step with noise of strength g, which leaves the marginals as they are; sigma > 0."""
    h, u = sigma_next - sigma, velocity(x, sigma)
    score = -(x + (1 - sigma) * u) / sigma
    return x + h * (u - strength**2 * score / 2) + strength * abs(h) ** 0.5 * noise


def shift(sigma: Array, factor: float) -> Array:
    """Levels moved towards noise by a factor above 1: their logit grows by its logarithm. Raises UserError."""
    require(factor > 0, f"A shift must be positive, not {factor}.")
    return factor * sigma / (1 + (factor - 1) * sigma)


def flow_level(a: Array, s: Array) -> tuple[Array, Array]:
    """(sigma, scale): the level of equal SNR on the straight path, and x / x_flow = a + s there."""
    return s / (a + s), a + s
