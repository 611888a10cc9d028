"""The steppers: each takes a state of both modalities one step down the noise levels (spec sampling.md section 7).

Every one is a pure function `step(predict, state, plan, i, noise) -> state`. predict(state, sigma) gives the state
with what guidance remembers, and the predictions of its moving tracks by name. noise(kind, name, track, i) draws
N(0, 1) of the shape of a track's tokens. A last level of 0 lands on the prediction. Arithmetic is float32.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.diffusion import res_2s, updates
from ltx_jax.diffusion.conditioning import blend, draw_noise
from ltx_jax.diffusion.families import steppers as families
from ltx_jax.diffusion.objectives import velocity_from_x0
from ltx_jax.diffusion.state import SamplerState, SamplingPlan, StreamState
from ltx_jax.rng import named_key

Array = jax.Array


class Prediction(NamedTuple):
    """What the network says of a modality (B, T, C): x0, guided and blended with what is held; guided, the same before
    it was blended; uncond, the raw unconditional x0, for steppers that force that pass."""

    x0: Array
    guided: Array
    uncond: Array | None = None


Predict = Callable[[SamplerState, Array], tuple[SamplerState, dict[str, Prediction]]]
Noise = Callable[[str, str, StreamState, Array], Array]
Step = Callable[[Predict, SamplerState, SamplingPlan, Array, Noise], SamplerState]


def draw(kind: str, name: str, track: StreamState, i: Array) -> Array:
    """The noise of step i from the track's own keys, so that neither batch nor mesh change it."""
    assert track.keys is not None, f"The {name} track has no keys to draw noise from."
    key = lambda data: named_key(jax.random.wrap_key_data(data), kind, i)
    return draw_noise(jax.vmap(key)(track.keys), *track.latent.shape[1:])


def euler(predict: Predict, state: SamplerState, plan: SamplingPlan, i: Array, noise: Noise) -> SamplerState:
    """Euler along the straight path (7.1): what distilled and guided models are sampled with by default."""
    state, seen = predict(state, plan.sigmas[i])
    return state.moved(lambda name, track: updates.euler(track.latent, seen[name].x0, *plan.at(i)))


def gradient_estimation(
    predict: Predict, state: SamplerState, plan: SamplingPlan, i: Array, noise: Noise
) -> SamplerState:
    """Euler along a velocity corrected by its change since the step before (7.2; arXiv:2306.04848)."""
    sigma, sigma_next = plan.at(i)
    state, seen = predict(state, sigma)

    def change(name: str, track: StreamState) -> StreamState:
        x, x0 = track.latent, seen[name].x0
        velocity, before = velocity_from_x0(x, x0, sigma), track.memory["velocity"]
        corrected = plan.options["gamma"] * (velocity - before) + before
        target = jnp.where(i == 0, x0, x.astype(jnp.float32) - corrected * sigma)
        latent = jnp.where(sigma_next == 0, x0, updates.euler(x, target, sigma, sigma_next))
        stream = track.stream.replace(latent=latent.astype(x.dtype))
        return track.replace(stream=stream).remembering(velocity=velocity)

    return state.changed(change)


def euler_ancestral(predict: Predict, state: SamplerState, plan: SamplingPlan, i: Array, noise: Noise) -> SamplerState:
    """Ancestral Euler (7.3): a step too far down, then fresh noise. eta: 1 all of it, 0 none."""
    sigma, sigma_next = plan.at(i)
    eta, s_noise = plan.options["eta"], plan.options["s_noise"]
    state, seen = predict(state, sigma)

    def move(name: str, track: StreamState) -> Array:
        x0, drawn = seen[name].x0, noise("step", name, track, i)
        y = updates.euler_ancestral(track.latent, x0, sigma, sigma_next, drawn, eta, s_noise)
        return _noised(track, y, x0, sigma_next, eta > 0)

    return state.moved(move)


def euler_cfg_pp(predict: Predict, state: SamplerState, plan: SamplingPlan, i: Array, noise: Noise) -> SamplerState:
    """CFG++ Euler (7.4; arXiv:2406.08070): towards the guided prediction, with the unconditional one's noise."""
    sigma, sigma_next = plan.at(i)
    eta, s_noise = plan.options["eta"], plan.options["s_noise"]
    state, seen = predict(state, sigma)

    def move(name: str, track: StreamState) -> Array:
        (x0, _, uncond), drawn = seen[name], noise("step", name, track, i)
        assert uncond is not None
        y = updates.euler_cfg_pp(track.latent, x0, sigma, sigma_next, uncond, drawn, eta, s_noise)
        return _noised(track, y, x0, sigma_next, (eta > 0) & (s_noise > 0))

    return state.moved(move)


def _noised(track: StreamState, y: Array, x0: Array, sigma_next: Array, drawn: Array) -> Array:
    """Tokens after a step: where noise was drawn held tokens are held again; at the last level the prediction."""
    held = jnp.where(drawn, blend(y, track.clean, track.mask), y)
    return jnp.where(sigma_next == 0, x0, held)


def heun(predict: Predict, state: SamplerState, plan: SamplingPlan, i: Array, noise: Noise) -> SamplerState:
    """Heun's second-order method (7.5, its end): the mean of the velocities at both ends of an Euler step."""
    sigma, sigma_next = plan.at(i)
    start, seen = predict(state, sigma)
    ended = start.moved(lambda name, track: updates.euler(track.latent, seen[name].x0, sigma, sigma_next))

    def whole() -> SamplerState:
        after, again = predict(ended, sigma_next)

        def move(name: str, track: StreamState) -> Array:
            x = state.tracks[name].latent
            first = velocity_from_x0(x, seen[name].x0, sigma)
            second = velocity_from_x0(track.latent, again[name].x0, sigma_next)
            return x.astype(jnp.float32) + (sigma_next - sigma) * (first + second) / 2

        return after.moved(move)

    return jax.lax.cond(sigma_next == 0, lambda: ended, whole)


@dataclasses.dataclass(frozen=True)
class Stepper:
    """A row of STEPPERS.

    options: its numbers and their defaults. noisy: whether it draws noise. forces: passes that it needs whatever
    guidance does. memory: arrays of tokens that it keeps from step to step. evaluations: calls of the network in a
    step. levels: the schedule as it walks it; coefficients: what that is on the host, float64 (S,) by name.
    """

    step: Step
    options: Mapping[str, float] = dataclasses.field(default_factory=dict)
    noisy: bool = False
    forces: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    evaluations: int = 1
    levels: Callable[[np.ndarray], np.ndarray] = lambda sigmas: sigmas
    coefficients: Callable[[np.ndarray, Mapping[str, float]], dict[str, np.ndarray]] = lambda sigmas, options: {}


_NOISY = {"eta": 1.0, "s_noise": 1.0}
_RES_2S = Stepper(
    res_2s.res_2s, {"eta": 0.5, "substep_eta": 0.5, "refinements": 100}, noisy=True, evaluations=2,
    levels=res_2s.levels, coefficients=res_2s.step_coefficients,
)  # fmt: skip

STEPPERS: dict[str, Stepper] = {
    "euler": Stepper(euler),
    "euler_ancestral": Stepper(euler_ancestral, _NOISY, noisy=True),
    "euler_cfg_pp": Stepper(euler_cfg_pp, _NOISY, noisy=True, forces=("uncond",)),
    "gradient_estimation": Stepper(gradient_estimation, {"gamma": 2.0}, memory=("velocity",)),
    "heun": Stepper(heun, evaluations=2),
    "res_2s": _RES_2S,
    "res_2s_per_token": dataclasses.replace(_RES_2S, step=functools.partial(res_2s.res_2s, per_token=True)),
    "ancestral": Stepper(families.ancestral, {"eta": 1.0}, noisy=True),
    "predictor_corrector": Stepper(
        families.predictor_corrector, {"eta": 1.0, "snr": 0.16}, noisy=True, evaluations=2, levels=families.levels
    ),
    "edm": Stepper(
        families.edm,
        {"churn": 40.0, "s_noise": 1.003},
        noisy=True,
        evaluations=2,
        levels=families.levels,
        coefficients=families.raised_levels,
    ),
}


def steps_of(stepper: str, sigmas: tuple[float, ...]) -> int:
    """How many steps a stepper takes along a schedule."""
    return len(STEPPERS[stepper].levels(np.asarray(sigmas))) - 1
