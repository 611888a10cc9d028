"""The second-order method of the HQ pipeline: two predictions a step, noise at half and whole steps (7.5).

Exponential Runge-Kutta in the logarithm of the noise level, with stochastic steps that keep the level. Coefficients
are float64 on the host, tokens float32 on the device. Letters: B batch, T tokens, C channels, S steps.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.diffusion.conditioning import blend
from ltx_jax.diffusion.state import SamplerState, SamplingPlan, StreamState
from ltx_jax.streams import length_mask, masked_std

Array = jax.Array

MINIMAL_SIGMA = 0.0011  # stands before the 0 at the end of a schedule: the logarithm of 0 is no number
# Steps shorter than this, from noise levels above that, have their start refined.
REFINE_BELOW, REFINE_ABOVE = 0.5, 0.03


def levels(sigmas: np.ndarray) -> np.ndarray:
    """The schedule as the method walks it: a last 0 becomes MINIMAL_SIGMA, 0, of which the last step only predicts."""
    return np.append(sigmas[:-1], [MINIMAL_SIGMA, 0.0]) if sigmas[-1] == 0 else sigmas


def coefficients(h: np.ndarray, c2: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights a21, b1 and b2 of steps of length h in -log sigma, float64."""
    a21 = c2 * _phi1(-h * c2)
    b2 = _phi2(-h) / c2
    return a21, _phi1(-h) - b2, b2


def step_coefficients(sigmas: np.ndarray, options: Mapping[str, float]) -> dict[str, np.ndarray]:
    """What the steps of a schedule (S + 1,) multiply by, float64 (S,) each; zeros where a step ends at 0.

    shrink and rest: the start X of a step is refined `options["refinements"]` times to X = m - shrink (d1 - X), with m
    at its half and d1 the prediction at its start. That leaves `rest` of the distance to the fixed point.
    """
    sigmas = np.asarray(sigmas, np.float64)
    walked = sigmas[1:] > 0
    h = np.zeros(len(sigmas) - 1)
    h[walked] = -np.log(sigmas[1:][walked] / sigmas[:-1][walked])
    a21, b1, b2 = coefficients(h)
    refined = walked & (h < REFINE_BELOW) & (sigmas[:-1] > REFINE_ABOVE) & (options["refinements"] > 0)
    shrink = np.where(refined, h * a21, 0.0)
    rest = np.where(refined, shrink ** options["refinements"], 1.0)
    return {"half": h * a21, "first": h * b1, "second": h * b2, "shrink": shrink, "rest": rest}


def _phi1(z: np.ndarray) -> np.ndarray:
    """(e^z - 1) / z, and 1 at 0."""
    near = np.abs(z) < 1e-10
    safe = np.where(near, 1.0, z)
    return np.where(near, 1.0, np.expm1(safe) / safe)


def _phi2(z: np.ndarray) -> np.ndarray:
    """(e^z - 1 - z) / z^2, and 1/2 at 0; a series near 0, where the difference would cancel."""
    small = np.abs(z) < 1e-2
    safe = np.where(small, 1.0, z)
    series = sum(z**k / math.factorial(k + 2) for k in range(7))
    return np.where(small, series, (np.expm1(safe) - safe) / safe**2)


def stochastic(
    x: Array, moved: Array, sigma: Array, sigma_next: Array, noise: Array, eta: Array | float = 0.5
) -> Array:
    """`moved`, the deterministic step of x from sigma to sigma_next, with a part of its noise drawn anew; float32.

    x, moved, noise: (B, T, C). sigma, sigma_next: scalars, or (B, T, 1) for levels of tokens. Where nothing can be
    drawn anew at any token all of `moved` is returned.
    """
    up = jnp.minimum(eta * sigma_next, 0.9999 * sigma_next)
    residual = jnp.sqrt(jnp.maximum(0.0, sigma_next**2 - up**2))
    ratio = (1 - sigma_next) + residual
    down = residual / ratio
    direction = (x - moved) / (sigma - sigma_next)
    drawn = ratio * (x - (sigma - down) * direction) + up * noise
    return jnp.where(jnp.any(up == 0), moved, drawn)


def standardised(noise: Array, mask: Array) -> Array:
    """Noise (B, T, C) with mean 0 and deviation 1 in every sample, over the tokens that mask (B, T, 1) bool names.

    The reference does so over the batch first, which this undoes.
    """
    count = jnp.sum(mask, axis=(1, 2), keepdims=True) * noise.shape[2]
    mean = jnp.sum(jnp.where(mask, noise, 0), axis=(1, 2), keepdims=True) / count
    return (noise - mean) / masked_std(noise, mask, (1, 2))[:, None, None]


def res_2s(predict, state: SamplerState, plan: SamplingPlan, i: Array, noise, *, per_token: bool = False):
    """One step; see `steppers` for the arguments. At sigma_next = 0 the prediction itself.

    per_token: noise levels in the stochastic steps are those of the tokens, and nothing is blended after them.
    """
    sigma, sigma_next = plan.at(i)
    half, first, second, shrink, rest = (plan.coefficients[k][i] for k in ("half", "first", "second", "shrink", "rest"))
    middle = jnp.sqrt(sigma * sigma_next)
    start, seen = predict(state, sigma)

    def renoised(kind: str, name: str, track: StreamState, x: Array, y: Array, end: Array, eta: Array | float) -> Array:
        mask = length_mask(track.stream.length, *track.latent.shape[:2])[..., None]
        drawn = standardised(noise(kind, name, track, i), mask)
        if per_token:
            return stochastic(x, y, track.mask * sigma, track.mask * end, drawn, eta)
        return blend(stochastic(x, y, sigma, end, drawn, eta), track.clean, track.mask)

    def halfway(name: str, track: StreamState) -> Array:
        x = track.latent.astype(jnp.float32)
        y = x + half * (seen[name].x0 - x)
        return renoised("substep", name, track, x, y, middle, plan.options["substep_eta"])

    def whole() -> SamplerState:
        at_half = start.moved(halfway)
        after, again = predict(at_half, middle)

        def move(name: str, track: StreamState) -> Array:
            x, m, d1 = (a.astype(jnp.float32) for a in (state.tracks[name].latent, track.latent, seen[name].x0))
            fixed = (m - shrink * d1) / (1 - shrink)
            x = fixed + rest * (x - fixed)
            y = x + first * (d1 - x) + second * (again[name].x0 - x)
            return renoised("step", name, track, x, y, sigma_next, plan.options["eta"])

        return after.moved(move)

    return jax.lax.cond(sigma_next == 0, lambda: start.moved(lambda name, _: seen[name].x0), whole)
