"""Every stepper through the sampler: its order, its noise, what it holds, and that it can be stopped anywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion import conditioning, res_2s, sample
from ltx_jax.diffusion.guidance import Guidance
from ltx_jax.diffusion.steppers import STEPPERS, steps_of
from ltx_jax.errors import UserError
from ltx_jax.streams import Rotary

TOKENS, CHANNELS, HELD = 6, 3, 2
NOWHERE = Rotary((), (), jnp.zeros((1, TOKENS, 0), jnp.int32))
KEYS = jax.random.split(jax.random.key(5), 2)
VARIANCE = 0.25


def begun(held=0, strength=1.0, batch=2, scale=1.0):
    """Tokens of two samples in noise, the first ones held to given content."""
    clean = conditioning.draw_noise(jax.random.split(jax.random.key(9), 2), TOKENS, CHANNELS)[:batch]
    positions = np.zeros((batch, 1, TOKENS, 2), np.float32)
    state = conditioning.initial_state(jnp.zeros_like(clean), positions, (TOKENS, 1, 1), video=False)
    if held:
        state = conditioning.LatentAtIndex(clean[:, :held], strength=strength).apply(state)
    noise = conditioning.draw_noise(jax.random.split(jax.random.key(1), 2), TOKENS, CHANNELS)[:batch]
    return sample.make_track(conditioning.add_state_noise(state, scale * noise), NOWHERE)


def gaussian(video, audio, passes, keep):
    """x0 of data ~ N(0, VARIANCE), exactly: the mean of x0 given x."""
    s = video.timesteps()[..., None]
    return video.latent * (1 - s) * VARIANCE / ((1 - s) ** 2 * VARIANCE + s**2), None


def run(stepper, sigmas, track, network=gaussian, start=0, stop=None, **options):
    plan = sample.make_plan(np.asarray(sigmas), Guidance(), stepper=stepper, options=options)
    state = sample.prepare(sample.SamplerState(video=track), plan, lambda name: KEYS[: len(track.latent)])
    steps = len(plan.sigmas) - 1 if stop is None else stop
    whole = functools.partial(sample.run, network, plan=plan)
    return jax.jit(lambda state, a, b: whole(state, start=a, stop=b))(state, start, steps)


DETERMINISTIC = {
    "euler": {},
    "heun": {},
    "gradient_estimation": {"gamma": 1.0},
    "res_2s": {"eta": 0.0, "substep_eta": 0.0},
    "ancestral": {"eta": 0.0},
}


@pytest.mark.parametrize("stepper", DETERMINISTIC)
def test_more_steps_come_closer_to_the_exact_map_by_the_methods_order(stepper):
    """The exact flow from 1 to 0.2 scales tokens by the ratio of the deviations at both levels."""
    deviation = lambda s: np.sqrt((1 - s) ** 2 * VARIANCE + s**2)
    track = begun()
    exact = track.latent * deviation(0.2) / deviation(0.95)
    error = []
    for steps in (8, 16):
        end = run(stepper, np.geomspace(0.95, 0.2, steps + 1), track, **DETERMINISTIC[stepper])
        error.append(float(jnp.abs(end.video.latent - exact).max()))
    order = 2 if STEPPERS[stepper].evaluations == 2 else 1
    assert error[0] / error[1] > 2**order * 0.8
    assert error[1] < (0.05 if order == 1 else 0.004)


@pytest.mark.parametrize("stepper", STEPPERS)
def test_every_stepper_ends_at_the_prediction_and_keeps_what_is_held(stepper):
    constant = lambda video, audio, passes, keep: (jnp.full_like(video.latent, 3.0), None)
    track = begun(held=HELD)
    end = run(stepper, [1.0, 0.7, 0.3, 0.0], track, constant).video.latent
    np.testing.assert_allclose(end[:, HELD:], 3.0, atol=1e-5)
    np.testing.assert_allclose(end[:, :HELD], track.clean[:, :HELD], atol=1e-5)


@pytest.mark.parametrize("stepper", STEPPERS)
def test_pieces_equal_the_whole_and_samples_do_not_see_each_other(stepper):
    sigmas, track = [1.0, 0.8, 0.5, 0.2, 0.0], begun(held=HELD, strength=0.6)
    plan = sample.make_plan(np.asarray(sigmas), Guidance(), stepper=stepper)
    program = jax.jit(lambda state, a, b: sample.run(gaussian, state, plan, a, b))
    state = sample.prepare(sample.SamplerState(video=track), plan, lambda name: KEYS)
    steps = steps_of(stepper, tuple(sigmas))
    whole, pieces = program(state, 0, steps), program(program(program(state, 0, 1), 1, 3), 3, steps)
    jax.tree.map(np.testing.assert_array_equal, whole, pieces)
    alone = run(stepper, sigmas, begun(held=HELD, strength=0.6, batch=1))
    np.testing.assert_array_equal(alone.video.latent[0], whole.video.latent[0])
    assert bool(jnp.isfinite(whole.video.latent).all())


@pytest.mark.parametrize("stepper", [name for name, row in STEPPERS.items() if row.noisy])
def test_noise_follows_the_keys_and_eta(stepper):
    sigmas, track = [0.9, 0.7, 0.4, 0.0], begun()
    plan = sample.make_plan(np.asarray(sigmas), Guidance(), stepper=stepper)

    def ends(keys, plan):
        state = sample.prepare(sample.SamplerState(video=track), plan, lambda name: keys)
        return np.asarray(sample.run(gaussian, state, plan, 0, len(plan.sigmas) - 1).video.latent)

    first, other = ends(KEYS, plan), ends(jax.random.split(jax.random.key(6), 2), plan)
    assert not np.allclose(first[0], other[0], atol=1e-3)
    np.testing.assert_array_equal(first, ends(KEYS, plan))
    quiet = {name: 0.0 for name in plan.options if name in ("eta", "substep_eta", "churn", "snr")}
    still = sample.make_plan(np.asarray(sigmas), Guidance(), stepper=stepper, options=quiet)
    np.testing.assert_array_equal(ends(KEYS, still), ends(jax.random.split(jax.random.key(6), 2), still))


@pytest.mark.parametrize("stepper", ["euler_ancestral", "res_2s", "ancestral", "edm", "predictor_corrector"])
def test_fresh_noise_keeps_the_level_of_data_that_a_network_knows(stepper):
    """Gaussian data stay Gaussian of the right deviation however much of the noise is drawn anew."""
    keys = jax.random.split(jax.random.key(3), 1)
    noise = conditioning.draw_noise(keys, 4000, 1)
    state = conditioning.LatentState(
        noise, noise, jnp.ones((1, 4000, 1)), np.zeros((1, 1, 4000, 2), np.float32), grid=(4000, 1, 1)
    )
    track = sample.make_track(state, NOWHERE)
    options = {"eta": 0.5} if "eta" in STEPPERS[stepper].options else {"s_noise": 1.0}
    end = run(stepper, np.linspace(1, 0, 81), track, **options).video.latent
    assert np.isclose(float(end.std()), np.sqrt(VARIANCE), rtol=0.05)


def test_padding_reaches_no_noise_and_no_token():
    track = begun(held=HELD)
    short = track.replace(
        stream=track.stream.replace(latent=track.latent.at[:, 4:].set(jnp.nan), length=jnp.full((2,), 4, jnp.int32))
    )
    cut = track.replace(
        stream=track.stream.replace(
            latent=track.latent[:, :4],
            level_index=track.stream.level_index[:, :4],
            rotary=Rotary((), (), NOWHERE.index[:, :4]),
        ),
        clean=track.clean[:, :4],
    )
    ends = [run("res_2s", [1.0, 0.6, 0.2, 0.0], t).video.latent[:, :4] for t in (short, cut)]
    np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-6)


def test_refining_moves_the_start_to_its_fixed_point():
    sigmas = np.array([0.9, 0.8, 0.7])
    refined = res_2s.step_coefficients(sigmas, {"refinements": 100})
    assert np.all(refined["rest"] < 1e-30) and np.all(refined["shrink"] > 0)
    few = res_2s.step_coefficients(sigmas, {"refinements": 2})
    k, x, m, d = few["shrink"][0], 0.3, -0.7, 1.1
    fixed = (m - k * d) / (1 - k)
    by_hand = m - k * (d - (m - k * (d - x)))
    assert np.isclose(fixed + few["rest"][0] * (x - fixed), by_hand)
    off = res_2s.step_coefficients(sigmas, {"refinements": 0})
    assert np.all(off["rest"] == 1) and np.all(off["shrink"] == 0)


def test_unknown_options_and_steppers_are_sentences():
    with pytest.raises(UserError, match="'euler' has no option 'eta'"):
        sample.make_plan(np.array([1.0, 0.0]), stepper="euler", options={"eta": 0.5})
    with pytest.raises(UserError, match="no stepper 'dpm'"):
        sample.make_plan(np.array([1.0, 0.0]), stepper="dpm")
