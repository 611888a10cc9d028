"""Noise schedules: host functions that return float32 sigmas, decreasing to 0 (spec sampling.md section 5).

Everything is evaluated in float64: in float32 the LTX-2 schedule loses all accuracy at large token counts.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from ltx_jax.diffusion.families.network import PROCESSES, Levels
from ltx_jax.errors import UserError, require

# The fixed lists of the distilled models (5.4).
_STAGE_1 = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
DISTILLED: dict[str, tuple[float, ...]] = {
    "stage_1": _STAGE_1,
    "stage_2": _STAGE_1[5:],
    "stage_2_tiled": (0.625, 0.4, 0.0),
    "stage_2_hdr": (0.909375, 0.725, 0.0),
    "temporal_refine": _STAGE_1[4:],
}


def distilled(name: str = "stage_1") -> np.ndarray:
    """One of the fixed lists of the distilled models (5.4). Raises UserError on an unknown name."""
    if name not in DISTILLED:
        raise UserError(f"There is no distilled schedule '{name}'; choose one of {', '.join(DISTILLED)}.")
    return np.array(DISTILLED[name], np.float32)


def ltx2(
    steps: int,
    tokens: int | None = None,
    *,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    stretch: bool = True,
    terminal: float = 0.1,
) -> np.ndarray:
    """The LTX-2 schedule (5.1): (steps + 1,) sigmas, shifted by the token count (None: 4096) and stretched.

    With `stretch` the last sigma before 0 equals `terminal`.
    """
    _check_steps(steps)
    require(0 < terminal < 1, f"The terminal sigma must lie between 0 and 1, not {terminal}.")
    slope = (max_shift - base_shift) / (4096 - 1024)
    shift = (4096 if tokens is None else tokens) * slope + base_shift - 1024 * slope
    t = 1 - np.arange(steps) / steps
    odds = 1 / t - 1
    # sigma = e^shift / (e^shift + odds), divided by e^shift, and 1 - sigma taken directly: nothing can overflow or
    # cancel.
    denominator = 1 + odds * math.exp(-shift)
    if stretch and steps > 1:
        rise = odds / denominator  # (1 - sigma) e^shift
        sigmas = 1 - rise / rise[-1] * (1 - terminal)
    else:  # one step leaves nothing to stretch
        sigmas = 1 / denominator
    return np.append(sigmas, 0.0).astype(np.float32)


def linear_quadratic(steps: int, threshold_noise: float = 0.025, linear_steps: int | None = None) -> np.ndarray:
    """A linear rise of the noise removed to `threshold_noise`, then a quadratic one to 1 (5.2): (steps + 1,)."""
    _check_steps(steps)
    if steps == 1:
        return np.array([1.0, 0.0], np.float32)
    linear = steps // 2 if linear_steps is None else linear_steps
    require(0 < linear < steps, f"The linear part must take 1 to {steps - 1} of the {steps} steps, not {linear}.")
    quadratic = steps - linear
    difference = linear - threshold_noise * steps
    a = difference / (linear * quadratic**2)
    k = threshold_noise / linear - 2 * difference / quadratic**2
    i = np.arange(steps)
    removed = np.where(i < linear, i * threshold_noise / linear, a * i**2 + k * i + a * linear**2)
    return np.append(1 - removed, 0.0).astype(np.float32)


def beta(
    steps: int, alpha: float = 0.6, beta: float = 0.6, *, shift: float = 2.37, table_length: int = 10000
) -> np.ndarray:
    """Quantiles of a beta distribution as indices into a shifted table (5.3).

    Repeated indices are dropped, so the result may be shorter than steps + 1.
    """
    _check_steps(steps)
    t = (np.arange(1, table_length + 1) / table_length).astype(np.float32).astype(np.float64)
    table = math.exp(shift) / (math.exp(shift) + (1 / t - 1))
    quantiles = inverse_beta(1 - np.arange(steps) / steps, alpha, beta)
    indices = np.rint(quantiles * (table_length - 1)).astype(int)
    kept = list(dict.fromkeys(indices.tolist()))  # first occurrences, in order
    return np.append(table[kept], 0.0).astype(np.float32)


def inverse_beta(probability: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Inverse of the beta distribution's cumulative function in float64, by bisection."""
    probability = np.asarray(probability, np.float64)
    low, high = np.zeros_like(probability), np.ones_like(probability)
    for _ in range(60):  # past the resolution of float64
        middle = (low + high) / 2
        below = incomplete_beta(middle, alpha, beta) < probability
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(probability >= 1, 1.0, np.where(probability <= 0, 0.0, (low + high) / 2))


def incomplete_beta(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """The regularised incomplete beta function I_x(a, b) in float64, x in [0, 1].

    The continued fraction converges fast below x = (a + 1) / (a + b + 2); above, I_x(a, b) = 1 - I_(1-x)(b, a).
    """
    direct = x <= (a + 1) / (a + b + 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(direct, _beta_fraction(x, a, b), 1 - _beta_fraction(1 - x, b, a))


def _beta_fraction(x: np.ndarray, a: float, b: float) -> np.ndarray:
    # x^a (1-x)^b / (a B(a,b)) / (1 + d1 / (1 + d2 / ...)) (DLMF 8.17.22), evaluated from the inside out.
    fraction = np.ones_like(x)
    for j in range(100, 0, -1):
        m = j // 2
        top = m * (b - m) if j % 2 == 0 else -(a + m) * (a + b + m)
        fraction = 1 + top * x / ((a + j - 1) * (a + j)) / fraction
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return x**a * (1 - x) ** b / (a * math.exp(log_beta)) / fraction


def _of_family(levels: Levels, steps: int, tokens: int | None) -> np.ndarray:
    """The levels that a family's own sampler visits (spec families.md)."""
    _check_steps(steps)
    return levels.grid(steps).astype(np.float32)


# What a request can ask for by name: (steps, tokens for the shift or None) -> sigmas.
Schedule = Callable[[int, int | None], np.ndarray]
SCHEDULES: dict[str, Schedule] = {
    "ltx2": ltx2,
    "linear_quadratic": lambda steps, tokens: linear_quadratic(steps),
    "beta": lambda steps, tokens: beta(steps),
    **{p.name: functools.partial(_of_family, p.levels) for p in PROCESSES.values() if p.levels is not None},
}


def schedule(name: str, steps: int, tokens: int | None = None) -> np.ndarray:
    """The sigmas of the schedule called `name`. Raises UserError naming those that exist."""
    require(name in SCHEDULES, f"There is no schedule '{name}'; choose one of {', '.join(SCHEDULES)}.")
    return SCHEDULES[name](steps, tokens)


def _check_steps(steps: int) -> None:
    require(steps >= 1, f"A schedule needs at least one step, not {steps}.")
