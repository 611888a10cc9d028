"""Denoising diffusion probabilistic models: schedules of betas, the posterior, ancestral steps (families.md 1).

Denoising Diffusion Probabilistic Models; Improved Denoising Diffusion Probabilistic Models for the cosine schedule and
learned variances. Index 0 is the least noisy step; tables are float64 of the host.
"""

import dataclasses
import functools

import numpy as np

from ltx_jax.diffusion.families.process import Array, namespace, per_sample
from ltx_jax.errors import require

SCHEDULES = ("linear", "scaled_linear", "cosine")
VARIANCES = ("fixed_small", "fixed_large")


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A chain of T steps given by its betas (T,): q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t)."""

    betas: np.ndarray

    @functools.cached_property
    def signal(self) -> np.ndarray:
        """abar (T,): the product of 1 - beta, the share of the variance that is data's."""
        return np.cumprod(1 - self.betas)

    @functools.cached_property
    def before(self) -> np.ndarray:
        """abar (T,) one step less noisy: 1 at index 0."""
        return np.append(1.0, self.signal[:-1])

    @property
    def posterior_x0(self) -> np.ndarray:
        """The weight (T,) of x0 in the mean of q(x_{t-1} | x_t, x0)."""
        return np.sqrt(self.before) * self.betas / (1 - self.signal)

    @property
    def posterior_xt(self) -> np.ndarray:
        """The weight (T,) of x_t in the mean of q(x_{t-1} | x_t, x0)."""
        return np.sqrt(1 - self.betas) * (1 - self.before) / (1 - self.signal)

    @property
    def posterior_variance(self) -> np.ndarray:
        """The variance (T,) of q(x_{t-1} | x_t, x0): 0 at index 0."""
        return self.betas * (1 - self.before) / (1 - self.signal)

    @property
    def log_snr(self) -> np.ndarray:
        """log(abar / (1 - abar)), (T,); minus infinity where no signal is left."""
        with np.errstate(divide="ignore"):
            return np.log(self.signal) - np.log1p(-self.signal)

    def level(self, t: Array) -> tuple[Array, Array]:
        """(a, s) at the indices t; index -1 is clean data."""
        a = lookup(np.append(np.sqrt(self.signal), 1.0), t)  # index -1 finds the entry behind the last
        s = lookup(np.append(np.sqrt(1 - self.signal), 0.0), t)
        return a, s


def lookup(table: np.ndarray, t: Array) -> Array:
    """The table's entries at integers t; -1 is the last one, float32 where t is a JAX array."""
    if namespace(t) is np:
        return table[t]
    return namespace(t).asarray(table, "float32")[t]


def schedule(
    name: str, steps: int = 1000, *, start: float | None = None, end: float | None = None, s: float = 0.008
) -> Schedule:
    """A schedule by name: `linear`, `scaled_linear` (latent diffusion) or `cosine`.

    start, end: of the betas, by default 1e-4 and 0.02, scaled 0.00085 and 0.012; the cosine has its offset s instead.
    Raises UserError on an unknown name and on values that are no variances.
    """
    require(name in SCHEDULES, f"There is no schedule of betas '{name}'; choose one of {', '.join(SCHEDULES)}.")
    require(steps >= 1, f"A chain needs at least one step, not {steps}.")
    if name == "cosine":
        require(s >= 0, f"The offset of a cosine schedule must not be negative, not {s}.")
        f = np.cos((np.arange(steps + 1) / steps + s) / (1 + s) * np.pi / 2) ** 2
        return Schedule(np.minimum(1 - f[1:] / f[:-1], 0.999))
    low, high = (1e-4, 0.02) if name == "linear" else (0.00085, 0.012)
    low, high = low if start is None else start, high if end is None else end
    require(0 < low < 1 and 0 < high < 1, f"Betas must lie between 0 and 1, not at {low} and {high}.")
    if name == "linear":
        return Schedule(np.linspace(low, high, steps))
    return Schedule(np.linspace(np.sqrt(low), np.sqrt(high), steps) ** 2)


def zero_terminal_snr(chain: Schedule) -> Schedule:
    """The chain stretched to end in pure noise (Common Diffusion Noise Schedules and Sample Steps are Flawed).

    Its last step cannot be predicted as noise. Raises UserError for a chain of one step.
    """
    require(len(chain.betas) >= 2, "A chain of one step cannot be stretched to end in pure noise.")
    root = np.sqrt(chain.signal)
    signal = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return Schedule(1 - signal / np.append(1.0, signal[:-1]))


def learned_log_variance(chain: Schedule, t: Array, raw: Array) -> Array:
    """Log variance of a step from the network's raw output in [-1, 1]: between the posterior's and beta, in the log.

    raw (B, ...), t (B,). The posterior's variance of index 0, which is 0, is replaced by that of index 1.
    """
    posterior = np.append(chain.posterior_variance[1:2], chain.posterior_variance[1:])
    low, high = (per_sample(lookup(np.log(v), t), raw) for v in (posterior, chain.betas))
    share = (raw + 1) / 2
    return share * high + (1 - share) * low


def posterior_mean(chain: Schedule, t: Array, x: Array, x0: Array, clip: float | None = None) -> Array:
    """The mean of q(x_{t-1} | x_t, x0) at x (B, ...) and the prediction x0; clip: bound x0 to [-clip, clip]."""
    x0 = x0 if clip is None else namespace(x0).clip(x0, -clip, clip)
    weights = (per_sample(lookup(w, t), x) for w in (chain.posterior_x0, chain.posterior_xt))
    return sum(w * v for w, v in zip(weights, (x0, x), strict=True))


def variance(chain: Schedule, t: Array, kind: str = "fixed_small") -> Array:
    """The variance that an ancestral step from t adds: the posterior's or beta. Raises UserError on another kind."""
    require(kind in VARIANCES, f"There is no variance '{kind}'; choose one of {', '.join(VARIANCES)}.")
    return lookup(chain.posterior_variance if kind == "fixed_small" else chain.betas, t)


def step(
    chain: Schedule, t: Array, x: Array, x0: Array, noise: Array, variance: Array, clip: float | None = None
) -> Array:
    """One ancestral step from index t (B,) or a number to t - 1; the one from 0 adds no noise.

    variance: of the added noise, a number, (B,) or of x's shape (learned: exp of `learned_log_variance`).
    """
    spread = per_sample(variance**0.5, x)
    noisy = per_sample(namespace(t).asarray(t) > 0, x)
    return posterior_mean(chain, t, x, x0, clip) + noisy * spread * noise


def vlb_weight(chain: Schedule, t: Array, kind: str = "fixed_small") -> Array:
    """The weight of |e - e_hat|^2 in the variational bound at t >= 1, with a fixed variance."""
    beta, signal = lookup(chain.betas, t), lookup(chain.signal, t)
    return beta**2 / (2 * variance(chain, t, kind) * (1 - beta) * (1 - signal))


def prior_divergence(chain: Schedule, x0: Array) -> Array:
    """KL(q(x_{T-1} | x0) || N(0, I)) of x0 (B, ...), in nats, (B,)."""
    signal = chain.signal[-1]
    rest = 1 - signal
    each = 0.5 * (signal * x0**2 + rest - 1 - np.log(rest))
    return each.reshape(len(x0), -1).sum(axis=1)
