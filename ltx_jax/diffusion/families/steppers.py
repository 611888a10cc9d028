"""The samplers of the classic families in the sampling loop (families.md 1 to 4).

Tracks stay on the straight path x = (1 - sigma) x0 + sigma e; each method goes over to its own coordinates of equal
SNR, where a^2 + s^2 = 1 or a = 1. Of levels in (r, 1], which lie beyond what a noise of finite ratio r = s / a reaches,
only the highest one is kept, as that. Rows of `diffusion.steppers.STEPPERS`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.diffusion.conditioning import blend
from ltx_jax.diffusion.families import ddim
from ltx_jax.diffusion.families.network import PATHS
from ltx_jax.diffusion.state import SamplerState, SamplingPlan, StreamState
from ltx_jax.streams import length_mask

Array = jax.Array
MOST = 160.0  # EDM's highest level, 80, for data of standard deviation 0.5, in proportion to it
CHURNED = (0.1, 100.0)  # its churned levels, 0.05 to 50, in the same way


def levels(sigmas: np.ndarray) -> np.ndarray:
    """The schedule with its levels beyond the ratio MOST as one, at that."""
    most = MOST / (1 + MOST)
    within = sigmas[sigmas <= most]
    return within if len(within) == len(sigmas) else np.append(most, within[within < most])


def raised_levels(sigmas: np.ndarray, options: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Where churn lifts each step's level to, (S,) float64, "raised"."""
    sigmas = np.asarray(sigmas, np.float64)[:-1]
    ratio = sigmas / (1 - sigmas)
    churned = (ratio >= CHURNED[0]) & (ratio <= CHURNED[1])
    lifted = ratio * (1 + np.where(churned, min(options["churn"] / len(sigmas), 2**0.5 - 1), 0.0))
    return {"raised": lifted / (1 + lifted)}


def ancestral(predict: Any, state: SamplerState, plan: SamplingPlan, i: Array, noise: Any) -> SamplerState:
    """DDIM's step with the share eta of the ancestral noise: DDPM's own at 1, which is that of VE processes too."""
    sigma, sigma_next = plan.at(i)
    level, to = PATHS["preserving"](sigma), PATHS["preserving"](sigma_next)
    added = ddim.added_noise(*level, *to, plan.options["eta"])
    state, seen = predict(state, sigma)

    def move(name: str, track: StreamState) -> Array:
        x, x0 = track.latent.astype(jnp.float32), seen[name].x0
        e = (x - (1 - sigma) * x0) / sigma
        y = ddim.step(x0, e, *to, noise("step", name, track, i), added) / sum(to)
        return _held(track, y, plan.options["eta"] > 0)

    return state.moved(move)


def predictor_corrector(predict: Any, state: SamplerState, plan: SamplingPlan, i: Array, noise: Any) -> SamplerState:
    """A step of Langevin dynamics at the level, then the ancestral one. snr: of the score's and the noise's norms.

    The norms are those of a sample, not means over the batch, so that samples do not see each other.
    """
    sigma = plan.sigmas[i]
    ratio = sigma / (1 - sigma)
    state, seen = predict(state, sigma)

    def correct(name: str, track: StreamState) -> Array:
        x = track.latent.astype(jnp.float32) / (1 - sigma)
        score, z = (seen[name].x0 - x) / ratio**2, noise("corrector", name, track, i)
        real = length_mask(track.stream.length, *x.shape[:2])[..., None] & (track.mask > 0)
        square = lambda v: jnp.sum(jnp.where(real, v**2, 0), axis=(1, 2), keepdims=True)
        step = 2 * plan.options["snr"] ** 2 * square(z) / jnp.maximum(square(score), jnp.finfo(jnp.float32).tiny)
        return _held(track, (x + step * score + jnp.sqrt(2 * step) * z) * (1 - sigma), plan.options["snr"] > 0)

    return ancestral(predict, state.moved(correct), plan, i, noise)


def edm(predict: Any, state: SamplerState, plan: SamplingPlan, i: Array, noise: Any) -> SamplerState:
    """Heun's method in EDM's coordinates, after noise that lifts the level (churn, scaled by s_noise)."""
    sigma, sigma_next = plan.at(i)
    raised = plan.coefficients["raised"][i]
    ratio, ratio_next, lifted = (level / (1 - level) for level in (sigma, sigma_next, raised))

    def lift(name: str, track: StreamState) -> Array:
        spread = jnp.sqrt(jnp.maximum(0.0, lifted**2 - ratio**2)) * plan.options["s_noise"]
        x = track.latent.astype(jnp.float32) / (1 - sigma) + spread * noise("churn", name, track, i)
        return jnp.where(lifted > ratio, _held(track, x * (1 - raised), True), track.latent)

    begun, seen = predict(state.moved(lift), raised)
    slope = lambda track, x0, ratio, sigma: (track.latent.astype(jnp.float32) / (1 - sigma) - x0) / ratio

    def step(name: str, track: StreamState, slopes: Array) -> Array:
        x = track.latent.astype(jnp.float32) / (1 - raised)
        return (1 - sigma_next) * (x + (ratio_next - lifted) * slopes)

    first = {name: slope(track, seen[name].x0, lifted, raised) for name, track in begun.moving.items()}
    ended = begun.moved(lambda name, track: step(name, track, first[name]))

    def whole() -> SamplerState:
        after, again = predict(ended, sigma_next)
        second = {name: slope(t, again[name].x0, ratio_next, sigma_next) for name, t in ended.moving.items()}
        return after.moved(lambda name, track: step(name, begun.tracks[name], (first[name] + second[name]) / 2))

    return jax.lax.cond(sigma_next == 0, lambda: ended, whole)


def _held(track: StreamState, x: Array, drawn: Array | bool) -> Array:
    """Tokens to which noise was added where `drawn`, with those that are held as they are held."""
    return jnp.where(drawn, blend(x, track.clean, track.mask), x)
