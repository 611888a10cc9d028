"""A network of any family serves the sampler: with the exact answers for Gaussian data it predicts them exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion.families import edm, process
from ltx_jax.diffusion.families.gaussian import Gaussian
from ltx_jax.diffusion.families.network import PATHS, PROCESSES, find_process, predicting_x0
from ltx_jax.diffusion.guidance import Guidance
from ltx_jax.diffusion.sample import SamplerState, StreamState, make_plan, prepare, run
from ltx_jax.errors import UserError
from ltx_jax.streams import Rotary, Stream

DATA = Gaussian(np.array([-0.25, 0.8]), np.array([[0.5, 0.2], [0.2, 0.3]]))
ENDLESS = [name for name in PROCESSES if PROCESSES[name].most == 1]  # their last level holds no data
NAMES = [
    f"{name}:{kind}"
    for name, kind in itertools.product(PROCESSES, process.PREDICTIONS)
    if name not in ENDLESS or kind not in ("epsilon", "score")
]


def stream(latent, sigma, held=None):
    """A stream (B, T, C) at levels sigma (B,), with tokens held clean where `held` (B, T)."""
    levels, index = sigma[:, None], None
    if held is not None:
        levels, index = np.stack([sigma, 0 * sigma], 1), jnp.asarray(held, jnp.int32)
    latent, sigma, levels = (jnp.asarray(v, jnp.float32) for v in (latent, sigma, levels))
    return Stream(latent, sigma, levels, Rotary((), (), jnp.zeros((1, 1, 0), jnp.int32)), index)


def exact_output(found, read):
    """What a perfect network answers to a stream as it reads it, each token a sample of DATA's."""
    level = np.asarray(read.timesteps(), np.float64).reshape(-1)
    a, s = PATHS[found.path](level)
    x = np.asarray(read.latent, np.float64).reshape(-1, 2)
    output = DATA.predict(found.prediction, x, a, s)
    scaled = output * s[:, None] if found.prediction == "score" else output
    return jnp.asarray(scaled.reshape(read.latent.shape), jnp.float32)


@pytest.mark.parametrize("text", NAMES)
def test_the_exact_network_predicts_the_exact_data(text):
    found, sigma = find_process(text), np.array([0.05, 0.3, 0.6, 0.9])
    latent = np.random.default_rng(0).normal(size=(4, 3, 2))
    ours = stream(latent, sigma)
    predict = predicting_x0(found, lambda video, audio: (exact_output(found, video), None))
    x0, absent = predict(ours, None)
    flat = np.repeat(sigma, 3)
    np.testing.assert_allclose(x0, DATA.x0(latent.reshape(-1, 2), 1 - flat, flat).reshape(latent.shape), atol=2e-5)
    assert absent is None


@pytest.mark.parametrize("text", NAMES)
def test_what_training_asks_for_is_read_back_as_the_data(text):
    found, sigma = find_process(text), np.array([0.1, 0.5, 0.9], np.float32)
    x0, e = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    level = sigma[:, None, None]
    ours = stream((1 - level) * x0 + level * e, sigma)
    answer = found.answer(ours.latent, jnp.asarray(e - x0), jnp.asarray(sigma))
    np.testing.assert_allclose(found.x0(ours, answer), x0, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in PROCESSES if PROCESSES[name].levels is not None])
def test_levels_of_training_and_sampling_lie_on_the_path(name):
    found = PROCESSES[name]
    rng = np.random.default_rng(0)
    draws = jnp.asarray(rng.normal(size=4000), jnp.float32), jnp.asarray(rng.uniform(size=4000), jnp.float32)
    drawn = np.asarray(found.levels.draw(*draws))
    assert drawn.min() > 0 and drawn.std() > 0.1
    assert name == "edm" or drawn.max() <= found.most + 1e-6  # a log-normal has no end
    for steps in (1, 2, 20):
        grid = found.levels.grid(steps)
        assert len(grid) == steps + 1 and np.all(np.diff(grid) < 0) and grid[-1] == 0
        assert grid[0] == pytest.approx(found.most, abs=1e-6)


@pytest.mark.parametrize("name", PROCESSES)
def test_held_tokens_are_read_as_they_are_and_stay_finite(name):
    found, held = PROCESSES[name], np.array([[0, 1, 1]])
    latent = np.random.default_rng(0).normal(size=(1, 3, 2)).astype(np.float32)
    for sigma in (1.0, 0.5, 0.0):
        ours = stream(latent, np.array([sigma]), held)
        read = found.entering(ours)
        np.testing.assert_allclose(read.latent[:, 1:], latent[:, 1:], rtol=1e-6)
        np.testing.assert_array_equal(read.timesteps()[:, 1:], 0)
        x0 = found.x0(ours, jnp.ones((1, 3, 2)))
        assert np.all(np.isfinite(x0))


def test_no_network_is_asked_beyond_its_training():
    found = PROCESSES["ddpm_scaled"]
    read = found.entering(stream(np.ones((1, 2, 2)), np.array([1.0])))
    assert float(read.sigma[0]) == pytest.approx(found.most) and found.most < 0.95
    np.testing.assert_allclose(read.timesteps(), found.most)
    np.testing.assert_allclose(read.latent, 1)  # noise of unit variance, as it was trained


@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_edm_in_the_sampling_loop_is_edm(churn):
    """The stepper on the straight path makes what the family's own sampler makes in its coordinates."""
    grid = edm.sigmas(6) / 0.5
    sigmas, (drawn, noise) = grid / (1 + grid), np.random.default_rng(0).normal(size=(2, 6, 5, 2))
    options = {"churn": churn, "s_noise": 1.003}
    wanted = edm.sample(
        lambda x, sigma: DATA.x0(x, 1.0, sigma), grid[0] * drawn[0], grid, noise, churn=churn, churn_min=0.1,
        churn_max=100.0, noise_scale=1.003,
    )[-1]  # fmt: skip

    def predict(video, audio, names, keep):
        level = video.levels[:, 0]
        return DATA.x0(video.latent[0], 1 - level[0], level[0])[None], None

    ours = stream((1 - sigmas[0]) * grid[0] * drawn[:1], np.ones(1))
    track = StreamState(ours, jnp.ones((1, 1)), ours.latent)
    plan = make_plan(sigmas, Guidance(), stepper="edm", options=options)
    state = prepare(SamplerState(track), plan, lambda name: jax.random.split(jax.random.key(0), 1))
    given = lambda kind, name, track, i: jnp.asarray(noise, jnp.float32)[i][None]
    end = run(predict, state, plan, 0, 6, noise=given)
    np.testing.assert_allclose(end.video.latent[0], wanted, atol=2e-4)


def test_min_snr_weighs_x0_alike_in_every_prediction():
    sigma = jnp.asarray([0.2, 0.5, 0.8])
    for kind in ("epsilon", "x0", "v"):
        found = find_process(f"ddpm:{kind}")
        snr = ((1 - sigma) / sigma) ** 2
        np.testing.assert_allclose(
            found.min_snr_weight(sigma) * process.x0_weight(kind, snr), jnp.minimum(snr, 5), rtol=1e-5
        )


def test_flow_matching_is_left_as_it_is():
    found, ours = PROCESSES["flow"], stream(np.ones((1, 2, 2)), np.array([0.5]))
    output = jnp.ones((1, 2, 2))
    assert found.entering(ours) is ours
    assert found.answer(ours.latent, output, ours.sigma) is output


def test_processes_that_are_none_are_refused():
    with pytest.raises(UserError, match="no process 'edmm'; choose one of flow, ddpm"):
        find_process("edmm")
    with pytest.raises(UserError, match="cannot predict 'noise'"):
        find_process("ddpm:noise")
    with pytest.raises(UserError, match="ends in pure noise, where epsilon says nothing"):
        find_process("ddpm_zero_snr:epsilon")
