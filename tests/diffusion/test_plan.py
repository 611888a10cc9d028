"""Plans: guidance by noise level and skipped steps, and that neither costs a call that is not needed."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion import conditioning, sample
from ltx_jax.diffusion.guidance import RULES, Guidance, GuidanceTable
from ltx_jax.errors import UserError
from ltx_jax.streams import Rotary

SIGMAS = np.array([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def track(seed=0, tokens=5):
    noise = conditioning.draw_noise(jax.random.split(jax.random.key(seed), 2), tokens, 3)
    state = conditioning.initial_state(noise, np.zeros((2, 1, tokens, 2), np.float32), (tokens, 1, 1), video=False)
    return sample.make_track(state, Rotary((), (), jnp.zeros((1, tokens, 0), jnp.int32)))


def network(calls):
    """x0 that differs by pass, and that of each stream follows the other's tokens."""
    shift = {"cond": 0.0, "uncond": 1.0, "perturbed": -0.5, "isolated": 0.25}

    def predict(video, audio, passes, keep):
        enabled = tuple(s is not None and s.enabled for s in (video, audio))
        calls.append((passes, enabled))

        def x0(own, other):
            if own is None:
                return None
            rows = jnp.repeat(jnp.array([shift[p] for p in passes]), len(own.latent) // len(passes))[:, None, None]
            return 0.5 * own.latent + rows + (0.0 if other is None else jnp.mean(other.latent, (1, 2), keepdims=True))

        return x0(video, audio), x0(audio, video)

    return predict


def sampled(video, audio, **settings):
    calls = []
    plan = sample.make_plan(SIGMAS, video, audio, blocks=2, **settings)
    keys = lambda name: jax.random.split(jax.random.key(4), 2)
    state = sample.prepare(sample.SamplerState(video=track(), audio=track(1)), plan, keys)
    with jax.disable_jit():
        end = sample.run(network(calls), state, plan, 0, len(SIGMAS) - 1)
    return calls, end


def test_steps_that_both_skip_call_nothing():
    guide = Guidance(cfg_scale=3.0, skip_step=2)
    calls, _ = sampled(guide, guide)
    assert calls == [(("cond", "uncond"), (True, True))] * 2  # steps 0 and 3


def test_a_stream_that_skips_alone_is_carried_along():
    calls, end = sampled(Guidance(cfg_scale=3.0, skip_step=1), Guidance(cfg_scale=2.0))
    assert [enabled for _, enabled in calls] == [(True, True), (False, True)] * 2 + [(True, True)]
    _, plain = sampled(Guidance(cfg_scale=3.0), Guidance(cfg_scale=2.0))
    assert not np.allclose(end.video.latent, plain.video.latent)


def test_the_compiled_loop_takes_the_same_branches():
    guides = (Guidance(cfg_scale=3.0, skip_step=1), Guidance(stg_scale=1.0, skip_step=2))
    plan = sample.make_plan(SIGMAS, *guides, blocks=2, pad_to=9)
    state = sample.prepare(sample.SamplerState(video=track(), audio=track(1)), plan)
    compiled = jax.jit(lambda state: sample.run(network([]), state, plan, 0, 5))(state)
    _, eager = sampled(*guides)
    np.testing.assert_allclose(compiled.video.latent, eager.video.latent, rtol=1e-5)
    np.testing.assert_allclose(compiled.audio.latent, eager.audio.latent, rtol=1e-5)


def test_a_table_runs_the_passes_of_each_noise_level():
    table = GuidanceTable(((1.0, Guidance(cfg_scale=3.0)), (0.5, Guidance(stg_scale=1.0)), (0.3, Guidance())))
    calls, _ = sampled(table, Guidance())
    names = [passes for passes, _ in calls]
    assert names == [("cond", "uncond")] * 3 + [("cond", "perturbed"), ("cond",)]


def test_equal_rows_of_a_table_are_one_guidance():
    guide = Guidance(cfg_scale=3.0, rescale_scale=0.7)
    _, table = sampled(GuidanceTable(((1.0, guide), (0.5, guide))), Guidance())
    _, plain = sampled(guide, Guidance())
    np.testing.assert_array_equal(table.video.latent, plain.video.latent)


@pytest.mark.parametrize("rule", RULES)
def test_rules_guide_along_the_text(rule):
    """On one step from noise every rule moves away from the unconditional prediction, by its own amount."""
    neutral = 0.0 if rule == "apg_stateful" else 1.0
    ends = []
    for scale in (neutral, 3.0):
        guide = Guidance(cfg_scale=scale, rule=rule, stg_scale=0.5, momentum=0.5, norm_threshold=4.0)
        ends.append(np.asarray(sampled(guide, Guidance())[1].video.latent))
    assert ends[1].mean() < ends[0].mean() - 0.1


def test_the_difference_between_the_texts_guides_several_steps():
    """Where it never changes nothing is lost by asking for it in every third step alone."""
    guide, audio = Guidance(cfg_scale=3.0, rescale_scale=0.7), Guidance()
    calls, end = sampled(dataclasses.replace(guide, cfg_every=3), audio)
    assert [passes for passes, _ in calls] == [("cond", "uncond"), ("cond",), ("cond",)] + [
        ("cond", "uncond"),
        ("cond",),
    ]
    every, exact = sampled(guide, audio)
    assert len(every) == len(calls) == 5
    for ours, theirs in ((end.video, exact.video), (end.audio, exact.audio)):
        np.testing.assert_allclose(ours.latent, theirs.latent, rtol=1e-5, atol=1e-5)
    plan = sample.make_plan(SIGMAS, dataclasses.replace(guide, cfg_every=3), audio, blocks=2)
    state = sample.prepare(sample.SamplerState(video=track(), audio=track(1)), plan)
    compiled = jax.jit(lambda state: sample.run(network([]), state, plan, 0, 5))(state)
    np.testing.assert_allclose(compiled.video.latent, end.video.latent, rtol=1e-5)


def test_guidance_that_begins_late_asks_for_the_texts_when_it_begins():
    table = GuidanceTable(((1.0, Guidance()), (0.6, Guidance(cfg_scale=3.0, cfg_every=2))))
    calls, _ = sampled(table, Guidance())
    assert [len(passes) for passes, _ in calls] == [1, 1, 2, 1, 2]
    forced, _ = sampled(Guidance(cfg_scale=3.0, cfg_every=2), Guidance(), stepper="euler_cfg_pp")
    assert {len(passes) for passes, _ in forced} == {2}


def reusing(runs):
    """A network whose blocks add what tells the pass and the level at which they ran; x0 is what they are said to."""

    def predict(video, audio, passes, keep, last):
        runs.append((len(passes), last is None))
        shift = jnp.arange(len(passes), dtype=jnp.float32)
        rows = lambda s: jnp.repeat(shift, len(s.latent) // len(passes))[:, None, None] + s.levels[:, :1, None]
        added = last or tuple(jnp.broadcast_to(rows(s), (*s.latent.shape[:2], 4)) for s in (video, audio))
        return tuple(added[i][..., :3] for i in (0, 1)), added

    return predict


def test_blocks_are_reused_while_the_noise_has_hardly_moved():
    """The angles of the levels are 1.57, 1.33, 0.98, 0.59, 0.24: within 0.4 of the last run, but for the last step."""
    guide = Guidance(cfg_scale=3.0)
    plan = sample.make_plan(SIGMAS, guide, Guidance(), reuse=0.4)
    state = sample.SamplerState(video=track(), audio=track(1))
    state = sample.prepare(state, plan, widths={"video": 4, "audio": 4})
    runs: list = []
    with jax.disable_jit():
        end = sample.run(reusing(runs), state, plan, 0, 5)
    assert runs == [(2, True), (2, False), (2, True), (2, False), (2, True)]
    compiled = jax.jit(lambda state: sample.run(reusing([]), state, plan, 0, 5))(state)
    np.testing.assert_allclose(compiled.video.latent, end.video.latent, rtol=1e-5)
    x = np.asarray(state.video.latent)
    for (sigma, below), ran in zip(itertools.pairwise(SIGMAS), (1.0, 1.0, 0.6, 0.6, 0.2), strict=True):
        x0 = ran + 2.0 * (ran - (ran + 1))  # guided by 3 from the second pass, which is 1 above the first
        x = x + (x - x0) / sigma * (below - sigma)
    np.testing.assert_allclose(end.video.latent, x, rtol=1e-4, atol=1e-5)


def test_nothing_is_reused_in_tiles_or_by_a_negative_angle():
    with pytest.raises(UserError, match="must not be negative"):
        sample.make_plan(SIGMAS, reuse=-0.1)
    assert not sample.make_plan(SIGMAS, reuse=0.1).reuses_blocks


def test_a_first_pass_that_is_forced_runs_once():
    calls, _ = sampled(Guidance(), Guidance(), stepper="euler_cfg_pp")
    assert {passes for passes, _ in calls} == {("cond", "uncond")}


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="no guidance rule"):
        Guidance(rule="cfg_plus")
    with pytest.raises(UserError, match="every 1 or more steps, not every 0"):
        Guidance(cfg_every=0)
    with pytest.raises(UserError, match="steps to skip"):
        Guidance(skip_step=-1)
    with pytest.raises(UserError, match="at least one row"):
        GuidanceTable(())
    with pytest.raises(UserError, match="same rule"):
        GuidanceTable(((1.0, Guidance()), (0.5, Guidance(rule="apg"))))
