"""Score-based models through stochastic differential equations: VE, VP and sub-VP (families.md 3).

Score-Based Generative Modeling through Stochastic Differential Equations. Times lie in [0, 1], 1 is noise; they are
numbers or (B,).
"""

import dataclasses

import numpy as np

from ltx_jax.diffusion.families.process import Array, namespace
from ltx_jax.errors import require


@dataclasses.dataclass(frozen=True)
class VE:
    """The variance explodes: x = x0 + sigma(t) e, with sigma from sigma_min to sigma_max in equal ratios."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    least_time: float = 1e-5

    def __post_init__(self):
        _check_range("The sigmas of a VE process", self.sigma_min, self.sigma_max, self.least_time)

    def kernel(self, t: Array) -> tuple[Array, Array]:
        """(a, s) of the path from data to time t."""
        sigma = self.sigma_min * (self.sigma_max / self.sigma_min) ** t
        return namespace(t).ones_like(sigma), sigma

    def drift(self, t: Array) -> Array:
        """The coefficient f(t) of dx = f x dt + g dw."""
        return namespace(t).zeros_like(t)

    def diffusion(self, t: Array) -> Array:
        """g(t)."""
        return self.kernel(t)[1] * np.sqrt(2 * np.log(self.sigma_max / self.sigma_min))

    @property
    def prior_std(self) -> float:
        """Of the noise that sampling begins with."""
        return self.sigma_max

    def langevin_scale(self, t: Array) -> Array:
        """What multiplies the corrector's step."""
        return namespace(t).ones_like(t)


@dataclasses.dataclass(frozen=True)
class VP:
    """The variance is preserved: the DDPM in continuous time, beta(t) linear from beta_min to beta_max."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    least_time: float = 1e-3

    def __post_init__(self):
        _check_range("The betas of a VP process", self.beta_min, self.beta_max, self.least_time)

    def beta(self, t: Array) -> Array:
        """beta(t)."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Array) -> Array:
        """B(t), the integral of beta from 0 to t."""
        return t * self.beta_min + t**2 * (self.beta_max - self.beta_min) / 2

    def kernel(self, t: Array) -> tuple[Array, Array]:
        """(a, s) of the path from data to time t."""
        xp, b = namespace(t), self.integral(t)
        return xp.exp(-b / 2), xp.sqrt(-xp.expm1(-b))

    def drift(self, t: Array) -> Array:
        """The coefficient f(t) of dx = f x dt + g dw."""
        return -self.beta(t) / 2

    def diffusion(self, t: Array) -> Array:
        """g(t)."""
        return self.beta(t) ** 0.5

    @property
    def prior_std(self) -> float:
        """Of the noise that sampling begins with."""
        return 1.0

    def langevin_scale(self, t: Array) -> Array:
        """What multiplies the corrector's step: 1 - beta of a chain of 1000 steps."""
        return 1 - self.beta(t) / 1000


@dataclasses.dataclass(frozen=True)
class SubVP(VP):
    """Less noise than VP at every time: the std is that of VP squared."""

    def kernel(self, t: Array) -> tuple[Array, Array]:
        """(a, s) of the path from data to time t."""
        xp, b = namespace(t), self.integral(t)
        return xp.exp(-b / 2), -xp.expm1(-b)

    def diffusion(self, t: Array) -> Array:
        """g(t)."""
        xp = namespace(t)
        return xp.sqrt(self.beta(t) * -xp.expm1(-2 * self.integral(t)))


SDE = VE | VP
SDES: dict[str, type[VE] | type[VP]] = {"ve": VE, "vp": VP, "subvp": SubVP}


def loss_weight(sde: SDE, t: Array, likelihood: bool = False) -> Array:
    """The weight of |s score + e|^2 in denoising score matching: 1, or g^2 / s^2 for the likelihood's bound."""
    return (sde.diffusion(t) / sde.kernel(t)[1]) ** 2 if likelihood else namespace(t).ones_like(t)


def bits_per_dim(log_likelihood: Array, dims: int, eight_bits: bool = False) -> Array:
    """Bits per dimension of a log likelihood in nats; eight_bits: of dequantised 8-bit data scaled to [-1, 1]."""
    return -log_likelihood / (np.log(2) * dims) + (7 if eight_bits else 0)


def _check_range(what: str, low: float, high: float, least_time: float) -> None:
    require(0 < low < high, f"{what} must rise from above 0, not from {low} to {high}.")
    require(0 <= least_time < 1, f"The least time of a process must lie in [0, 1), not at {least_time}.")
