"""The sampler against exact solutions, in pieces, and with padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion import conditioning, sample, schedules
from ltx_jax.diffusion.families.network import PROCESSES, predicting_x0
from ltx_jax.diffusion.guidance import Guidance
from ltx_jax.errors import UserError
from ltx_jax.streams import Rotary

NOWHERE = Rotary((), (), jnp.zeros((1, 6, 0), jnp.int32))


def track(tokens=6, channels=3, held=0, batch=2, seed=0, length=None):
    keys = jax.random.split(jax.random.key(seed), batch)
    clean = conditioning.draw_noise(jax.random.split(jax.random.key(9), batch), tokens, channels)
    positions = np.zeros((batch, 1, tokens, 2), np.float32)
    state = conditioning.initial_state(jnp.zeros_like(clean), positions, (tokens, 1, 1), video=False)
    if held:
        state = conditioning.LatentAtIndex(clean[:, :held]).apply(state)
    state = conditioning.add_state_noise(state, conditioning.draw_noise(keys, tokens, channels))
    return sample.make_track(state, NOWHERE, length=length)


def gaussian_denoiser(variance, calls=None):
    """The exact velocity of data ~ N(0, variance): E[noise - x0 | x]."""

    def velocity(stream):
        if stream is None:
            return None
        s = stream.timesteps()[..., None]
        return stream.latent * (s - (1 - s) * variance) / ((1 - s) ** 2 * variance + s**2)

    def denoise(video, audio, passes, keep):
        if calls is not None:
            calls.append(passes)
        return velocity(video), velocity(audio)

    return predicting_x0(PROCESSES["flow"], denoise)


def test_gaussian_data_scale_by_the_analytic_factor():
    """On N(0, v) every Euler step multiplies x by 1 + (s' - s) times the velocity's slope: a product for all steps."""
    variance, sigmas = 0.3, schedules.ltx2(12)
    start = sample.SamplerState(video=track(), audio=track(seed=1))
    end = jax.jit(lambda s: sample.run(gaussian_denoiser(variance), s, sample.make_plan(sigmas), 0, 12))(start)
    s = sigmas[:-1].astype(np.float64)
    slope = (s - (1 - s) * variance) / ((1 - s) ** 2 * variance + s**2)
    factor = np.prod(1 + np.diff(sigmas.astype(np.float64)) * slope)
    for before, after in ((start.video, end.video), (start.audio, end.audio)):
        np.testing.assert_allclose(after.stream.latent, before.stream.latent * factor, rtol=2e-5)


def test_many_steps_approach_the_exact_map():
    """The exact flow takes noise of deviation 1 to data of deviation sqrt(v)."""
    plan = sample.make_plan(np.linspace(1, 0, 401, dtype=np.float32))
    start = sample.SamplerState(video=track())
    end = jax.jit(lambda s: sample.run(gaussian_denoiser(0.25), s, plan, 0, 400))(start)
    np.testing.assert_allclose(end.video.stream.latent, 0.5 * start.video.stream.latent, rtol=1e-2)


def test_pieces_equal_one_run_bit_for_bit():
    plan = sample.make_plan(schedules.ltx2(7), Guidance(cfg_scale=3, rescale_scale=0.7), Guidance(), pad_to=10)
    run = jax.jit(lambda state, start, stop: sample.run(gaussian_denoiser(0.3), state, plan, start, stop))
    start = sample.SamplerState(video=track(held=2), audio=track(seed=1))
    whole = run(start, 0, 7)
    pieces = run(run(run(start, 0, 1), 1, 5), 5, 7)
    jax.tree.map(np.testing.assert_array_equal, whole, pieces)
    assert run._cache_size() == 1  # bounds are traced: one program for every piece


def test_held_tokens_stay_and_a_frozen_stream_does_not_move():
    frozen = track(seed=1).replace(frozen=True, mask_levels=jnp.zeros((2, 1)))
    start = sample.SamplerState(video=track(held=2), audio=frozen)
    end = sample.run(gaussian_denoiser(0.3), start, sample.make_plan(schedules.ltx2(5)), 0, 5)
    np.testing.assert_allclose(end.video.stream.latent[:, :2], start.video.clean[:, :2], atol=1e-6)
    np.testing.assert_array_equal(end.audio.stream.latent, frozen.stream.latent)
    assert frozen.at(jnp.float32(0.5)).sigma.tolist() == [0, 0]


def test_batched_passes_equal_one_after_another():
    guided = Guidance(cfg_scale=3, stg_scale=1, modality_scale=2, rescale_scale=0.5)
    start = sample.SamplerState(video=track(), audio=track(seed=1))
    ends, calls = [], []
    for batched in (True, False):
        plan = sample.make_plan(schedules.ltx2(4), guided, Guidance(), blocks=1, batched=batched)
        calls.append([])
        inner = gaussian_denoiser(0.3, calls[-1])

        def denoise(video, audio, passes, keep, inner=inner):
            bias = jnp.repeat(jnp.array([float(len(p)) for p in passes]), 2)[:, None, None]  # a network per pass
            return tuple(x0 + 0.01 * bias for x0 in inner(video, audio, passes, keep))

        ends.append(sample.run(denoise, start, plan, 0, 4))
    assert len(calls[0]) == 1 and len(calls[1]) == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *ends)


def test_padding_never_leaks():
    plan = sample.make_plan(schedules.ltx2(4), Guidance(cfg_scale=3, rescale_scale=0.7))
    short = sample.run(gaussian_denoiser(0.3), sample.SamplerState(video=track(tokens=6)), plan, 0, 4)
    long = track(tokens=9, length=jnp.array([6, 6]))
    broken = long.stream.latent.at[:, 6:].set(jnp.nan)
    long = long.replace(stream=long.stream.replace(latent=broken))
    end = sample.run(gaussian_denoiser(0.3), sample.SamplerState(video=long), plan, 0, 4)
    np.testing.assert_allclose(end.video.stream.latent[:, :6], short.video.stream.latent, rtol=1e-6)


def test_bad_plans_are_sentences():
    for wrong in ([1.0, 1.0, 0.0], [0.0], [1.0, -0.1]):
        with pytest.raises(UserError, match="decrease"):
            sample.make_plan(np.array(wrong, np.float32))
    with pytest.raises(UserError, match="does not fit"):
        sample.make_plan(schedules.ltx2(8), pad_to=4)
    with pytest.raises(UserError, match="no stepper"):
        sample.make_plan(schedules.ltx2(8), stepper="heun3")
    with pytest.raises(UserError, match="number of the transformer's blocks"):
        sample.make_plan(schedules.ltx2(8), Guidance(stg_scale=1))
