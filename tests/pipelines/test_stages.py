"""The compiled stages: guidance by skipped attention reaches the transformer, for the blocks and streams it names."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import ltx_jax
from ltx_jax.bundle import make_networks
from ltx_jax.diffusion import items, schedules
from ltx_jax.diffusion.conditioning import add_state_noise, draw_noise
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.diffusion.guidance import Guidance
from ltx_jax.diffusion.sample import make_plan, make_track, prepare
from ltx_jax.models.dit.rope import rotary_tables
from ltx_jax.pipelines.stages import sample_steps
from ltx_jax.pipelines.states import empty_audio, empty_video, make_state, pad_tokens, tiles_of
from ltx_jax.streams import Context

STEPS = 2
STG = Guidance(stg_scale=1.0)


@pytest.fixture(scope="module")
def sampled():
    """A function from guidance of video and audio to the latents of both after `STEPS` steps of the toy."""
    model = ltx_jax.load("toy")
    release = getattr(model, "bundle", model).release
    params = {"transformer": getattr(model, "bundle", model).params["transformer"]}
    networks, config = make_networks(release, platform="cpu"), release.transformer
    keys = jax.random.split(jax.random.key(1), 2)
    noised = lambda state: add_state_noise(state, draw_noise(keys[:1], *state.latent.shape[1:]))
    shape = VideoShape(5, 16, 16, 8.0)
    state = make_state(release, noised(empty_video(release, shape, 1)), noised(empty_audio(release, shape, 1)))
    widths = [config.stream(m).width for m in ("video", "audio")]
    assert config.caption_proj_before_connector
    text = tuple(jax.random.normal(keys[1], (1, release.text_length, width)) for width in widths)

    sample = jax.jit(functools.partial(sample_steps, networks))

    def run(video, audio, tiles=None):
        plan = make_plan(schedules.ltx2(STEPS), video, audio, blocks=config.num_layers, tiles=tiles)
        end = sample(params, {"positive": text, "negative": text}, state, plan, 0, STEPS)
        return np.asarray(end.video.stream.latent)

    run.programs = sample._cache_size
    return run


def test_skipped_attention_changes_a_clip_as_its_blocks_say(sampled, mesh):
    plain, whole = sampled(Guidance(), Guidance()), sampled(STG, Guidance())
    others = [
        whole,
        sampled(Guidance(), STG),  # of the sound, whose attention the picture sees
        sampled(dataclasses.replace(STG, stg_blocks=(1,)), Guidance()),
        sampled(Guidance(modality_scale=3.0), Guidance()),
    ]
    for i, clip in enumerate(others):
        assert all(not np.allclose(clip, other, atol=1e-3) for other in [plain, *others[:i]])
    # With no block to skip the perturbed pass equals the first, so that there is nothing to guide by.
    nothing = sampled(dataclasses.replace(STG, stg_blocks=()), Guidance())
    np.testing.assert_allclose(nothing, plain, atol=1e-4)
    assert sampled.programs() == 3  # one a set of passes: which blocks are skipped is an array


def test_reused_blocks_come_nearer_to_all_steps_than_fewer_steps(mesh):
    """Of the toy: eight steps of which three reuse blocks, and two steps, beside eight whole ones."""
    release, params = ltx_jax.load("toy").bundle.release, ltx_jax.load("toy").bundle.params
    networks, config, keys = make_networks(release, platform="cpu"), release.transformer, jax.random.key(1)
    noised = lambda state: add_state_noise(state, draw_noise(keys[None], *state.latent.shape[1:]))
    shape = VideoShape(5, 16, 16, 8.0)
    state = make_state(release, noised(empty_video(release, shape, 1)), noised(empty_audio(release, shape, 1)))
    widths = {name: config.stream(name).width for name in ("video", "audio")}
    text = tuple(jax.random.normal(keys, (1, release.text_length, width)) for width in widths.values())

    def end(sigmas, **settings):
        plan = make_plan(sigmas, Guidance(cfg_scale=2.0), Guidance(), **settings)
        begun, texts = prepare(state, plan, None, widths), {"positive": text, "negative": (0 * text[0], 0 * text[1])}
        run = jax.jit(functools.partial(sample_steps, networks))
        made = run({"transformer": params["transformer"]}, texts, begun, plan, 0, len(sigmas) - 1)
        return np.asarray(made.video.latent)

    fine = np.linspace(1, 0, 9)
    exact, reused, coarse = end(fine), end(fine, reuse=0.3), end(fine[::4])
    error = lambda x: np.abs(x - exact).mean()
    assert 0 < error(reused) < 0.5 * error(coarse)


def test_tokens_that_the_target_may_not_attend_to_do_not_change_it(mesh):
    model, release = ltx_jax.load("toy"), ltx_jax.load("toy").bundle.release
    networks, keys = make_networks(release, platform="cpu"), jax.random.split(jax.random.key(2), 4)
    shape = VideoShape(5, 16, 16, 8.0)
    text = jax.random.normal(keys[0], (1, release.text_length, release.transformer.stream("video").width))

    def velocity(seed: int, weight: float) -> np.ndarray:
        """Of the target's tokens, beside as many appended ones of a seed."""
        state = empty_video(release, shape, 1)
        tokens = jax.random.normal(keys[seed], state.latent.shape)
        item = items.Weighted(items.Appended(tokens, state.positions + 1.0), weight)
        noised = add_state_noise(item.apply(state), draw_noise(keys[3:], tokens.shape[1] * 2, tokens.shape[2]))
        track = pad_tokens(make_track(noised, rotary_tables(release.transformer, noised.positions, None)["video"]), 3)
        assert track.stream.groups.shape == track.stream.weights.shape == track.stream.latent.shape[:2]
        params, stream = model.bundle.params["transformer"], track.at(np.float32(0.5))
        out, _ = networks.apply({"transformer": params}, "transformer", stream, None, Context(text), None, None)
        return np.asarray(out)[:, : tokens.shape[1]]

    np.testing.assert_array_equal(velocity(1, 0.0), velocity(2, 0.0))
    some = [velocity(1, weight) for weight in (0.0, 0.5, 1.0)]
    assert np.abs(velocity(2, 1.0) - some[2]).max() > 1e-3
    assert np.abs(some[0] - some[1]).max() > 1e-3 and np.abs(some[1] - some[2]).max() > 1e-3


def test_tiles_of_a_stage_reach_the_transformer(sampled, mesh):
    """One after the other or side by side, with guidance: the same; and the whole in one tile is no tile."""
    release = ltx_jax.load("toy").bundle.release
    shape = VideoShape(5, 16, 16, 8.0)
    states = [empty(release, shape, 1) for empty in (empty_video, empty_audio)]
    ends = [sampled(Guidance(cfg_scale=2.0), Guidance())]
    for counts, side_by_side in (
        (((1, 0),) * 3, False),
        (((1, 0), (1, 0), (2, 0)), False),
        (((1, 0), (1, 0), (2, 0)), True),
    ):
        tiles = tiles_of(release, *states, counts).replace(side_by_side=side_by_side)
        ends.append(sampled(Guidance(cfg_scale=2.0), Guidance(), tiles=tiles))
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-4)
    np.testing.assert_allclose(ends[3], ends[2], atol=1e-4)
    assert np.abs(ends[2] - ends[0]).max() > 1e-3
