"""Samplers of score-based models: predictors, a corrector, the probability flow, likelihoods (families.md 3).

A score is a function (x (B, ...), t) -> grad log p(x). A predictor goes from time t to the next one of a run of
`steps`, `below`, which is None behind the last; it returns the new x and its mean, and the last mean is the sample.
Loops are over few host times and unroll under `jit`, except for the likelihood's.
"""

import itertools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.diffusion.families.process import Array, namespace
from ltx_jax.diffusion.families.sde import SDE, VE, SubVP
from ltx_jax.errors import require

Score = Callable[[Array, Array], Array]
# (sde, score, x, t, below, steps, noise) -> (x, mean)
Predictor = Callable[[SDE, Score, Array, Array, Array | None, int, Array], tuple[Array, Array]]


def euler_maruyama(
    sde: SDE, score: Score, x: Array, t: Array, below: Array | None, steps: int, noise: Array
) -> tuple[Array, Array]:
    """The reverse equation backward by 1 / steps."""
    drift = sde.drift(t) * x - sde.diffusion(t) ** 2 * score(x, t)
    mean = x - drift / steps
    return mean + sde.diffusion(t) / steps**0.5 * noise, mean


def reverse_diffusion(
    sde: SDE, score: Score, x: Array, t: Array, below: Array | None, steps: int, noise: Array
) -> tuple[Array, Array]:
    """The reverse of the discrete chain of `steps`; a sub-VP process has none, and takes `euler_maruyama`."""
    if isinstance(sde, VE):
        square = _variance_removed(sde, t, below)
        mean = x + square * score(x, t)
        return mean + square**0.5 * noise, mean
    if isinstance(sde, SubVP):
        return euler_maruyama(sde, score, x, t, below, steps, noise)
    beta = sde.beta(t) / steps
    mean = 2 * x - (1 - beta) ** 0.5 * x + beta * score(x, t)
    return mean + beta**0.5 * noise, mean


def ancestral(
    sde: SDE, score: Score, x: Array, t: Array, below: Array | None, steps: int, noise: Array
) -> tuple[Array, Array]:
    """The ancestral step of the discrete chain of `steps`. Raises UserError for sub-VP, which has none."""
    require(not isinstance(sde, SubVP), "A sub-VP process has no ancestral predictor; take euler_maruyama.")
    if isinstance(sde, VE):
        square, level = _variance_removed(sde, t, below), sde.kernel(t)[1]
        mean = x + square * score(x, t)
        return mean + ((level**2 - square) * square / level**2) ** 0.5 * noise, mean
    beta = sde.beta(t) / steps
    mean = (x + beta * score(x, t)) / (1 - beta) ** 0.5
    return mean + beta**0.5 * noise, mean


def _variance_removed(sde: VE, t: Array, below: Array | None) -> Array:
    """Between the level at t and that at `below`, which is 0 behind the last."""
    return sde.kernel(t)[1] ** 2 - (0.0 if below is None else sde.kernel(below)[1] ** 2)


PREDICTORS: dict[str, Predictor] = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
}


def langevin(sde: SDE, score: Score, x: Array, t: Array, noise: Array, snr: float = 0.16) -> tuple[Array, Array]:
    """One step of the corrector at time t: (x, mean). snr: of the score's and the noise's norms, over the batch."""
    xp = namespace(x, noise)
    norm = lambda v: xp.mean(xp.sqrt((v.reshape(len(v), -1) ** 2).sum(axis=1)))
    slope = score(x, t)
    step = 2 * sde.langevin_scale(t) * (snr * norm(noise) / norm(slope)) ** 2
    mean = x + step * slope
    return mean + xp.sqrt(2 * step) * noise, mean


def times(sde: SDE, steps: int, end: float | None = None) -> np.ndarray:
    """The times of a predictor-corrector run, (steps,) float64 from 1 to the least time."""
    require(steps >= 1, f"A run needs at least one step, not {steps}.")
    return np.linspace(1.0, sde.least_time if end is None else end, steps)


def predictor_corrector(
    sde: SDE,
    score: Score,
    x: Array,
    predictor_noise: Array,
    corrector_noise: Array | None = None,
    *,
    predictor: str = "reverse_diffusion",
    snr: float = 0.16,
    end: float | None = None,
) -> tuple[list[Array], Array]:
    """x (B, ...) after every step, and the sample: the last predictor's mean.

    predictor_noise: (N, B, ...), one for each of N steps; corrector_noise: (N, B, ...) or (N, M, B, ...) for M
    corrector steps before each predictor's, or None for none. Raises UserError on an unknown predictor.
    """
    require(predictor in PREDICTORS, f"There is no predictor '{predictor}'; choose one of {', '.join(PREDICTORS)}.")
    steps, track, mean = len(predictor_noise), [], x
    grid = times(sde, steps, end)
    for i, (t, below) in enumerate(zip(grid, [*grid[1:], None], strict=True)):
        drawn: Any = () if corrector_noise is None else corrector_noise[i]
        for noise in [drawn] if getattr(drawn, "ndim", 0) == x.ndim else drawn:
            x, _ = langevin(sde, score, x, t, noise, snr)
        x, mean = PREDICTORS[predictor](sde, score, x, t, below, steps, predictor_noise[i])
        track.append(x)
    return track, mean


# --- the probability flow -------------------------------------------------------------------------------------------

Field = Callable[[Array, Array], Array]


def probability_flow(sde: SDE, score: Score) -> Field:
    """dx/dt of the ordinary equation with the marginals of the stochastic one."""
    return lambda x, t: sde.drift(t) * x - 0.5 * sde.diffusion(t) ** 2 * score(x, t)


def runge_kutta(field: Callable[[Array, Array], Array], x: Array, t: Array, h: Array) -> Array:
    """One step of the classical fourth-order method; x may be a tree of arrays."""
    move = lambda scale, k: jax.tree.map(lambda v, d: v + scale * d, x, k)
    k1 = field(x, t)
    k2 = field(move(h / 2, k1), t + h / 2)
    k3 = field(move(h / 2, k2), t + h / 2)
    k4 = field(move(h, k3), t + h)
    return jax.tree.map(lambda v, *k: v + h / 6 * (k[0] + 2 * k[1] + 2 * k[2] + k[3]), x, k1, k2, k3, k4)


def flow_sample(sde: SDE, score: Score, x: Array, steps: int, end: float | None = None) -> Array:
    """The sample that the probability flow makes of noise x (B, ...), by Runge-Kutta in `steps` equal steps."""
    grid, field = times(sde, steps + 1, end), probability_flow(sde, score)
    for t, below in itertools.pairwise(grid):
        x = runge_kutta(field, x, t, below - t)
    return x


def divergence(field: Field, x: jax.Array, t: Array, probe: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """The field at x (B, ...) and its divergence (B,), exact or by Hutchinson's estimate with `probe` of x's shape."""
    along = lambda v: jax.jvp(lambda y: field(y, t), (x,), (v,))
    total = lambda v: v.reshape(len(v), -1).sum(axis=1)
    if probe is not None:
        value, pushed = along(probe)
        return value, total(probe * pushed)
    size = x[0].size
    units = jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])
    values, pushed = jax.vmap(lambda unit: along(jnp.broadcast_to(unit, x.shape)))(units)
    return values[0], jax.vmap(total)(units * pushed).sum(axis=0)


def log_likelihood(
    sde: SDE, score: Score, x0: jax.Array, steps: int, start: float | None = None, probe: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Log likelihood (B,) in nats of x0 (B, ...), and where the flow takes it at time 1, by `steps` of Runge-Kutta.

    start: where the flow begins, the least time by default; probe: see `divergence`, fixed for the whole solve.
    """
    start = sde.least_time if start is None else start
    field, h = probability_flow(sde, score), (1 - start) / steps
    both = lambda state, t: divergence(field, state[0], t, probe)
    begin = (x0, jnp.zeros(len(x0), x0.dtype))
    step = lambda i, state: runge_kutta(both, state, start + i.astype(x0.dtype) * h, h)
    end, change = cast(tuple[jax.Array, jax.Array], jax.lax.fori_loop(0, steps, step, begin))
    square = (end.reshape(len(end), -1) ** 2).sum(axis=1)
    normal = -0.5 * (square / sde.prior_std**2 + end[0].size * np.log(2 * np.pi * sde.prior_std**2))
    return normal + change, end
