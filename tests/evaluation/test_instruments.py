"""The instruments' self-test: they read true clips rightly, and a planted fault lowers the scores that it must and no
other. Only then do they judge generated clips.
"""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from ltx_jax.data.raw.toy.vocabulary import COLORS
from ltx_jax.data.raw.toy.world import Clip, Scene, WorldConfig, draw, render
from ltx_jax.evaluation.frechet import features, frechet
from ltx_jax.evaluation.hearing import listen
from ltx_jax.evaluation.prompts import draw_prompts, true_clips
from ltx_jax.evaluation.scores import Observed, chance, difference, in_step, interval, means, observe, offset_ms, table
from ltx_jax.evaluation.sight import look
from ltx_jax.evaluation.toy import SCORES, evaluate_toy
from ltx_jax.pipelines.sampler import open_model

WORLD = WorldConfig()
PROMPTS = draw_prompts(40)
CLIPS = true_clips(PROMPTS, WORLD)
ALL = {
    "colour", "shape", "count", "size", "background", "prompt", "prompt_unseen", "inside", "smooth", "pitch", "timbre",
    "sync_60ms",
}  # fmt: skip
PROMPT = {"prompt", "prompt_unseen"}


def watch(clips: list[Clip]) -> list[Observed]:
    return [observe(clip.video, clip.audio, WORLD.fps, WORLD.sample_rate) for clip in clips]


@pytest.fixture(scope="module")
def seen() -> list[Observed]:
    return watch(CLIPS)


@pytest.fixture(scope="module")
def true_scores(seen) -> dict[str, float]:
    return means(table(PROMPTS, seen))


def test_true_clips_score_at_least_98_percent(true_scores, seen):
    assert set(true_scores) == ALL
    assert all(score >= 0.98 for score in true_scores.values()), true_scores
    assert offset_ms(seen) < 5


def test_every_bounce_and_tone_is_found_to_some_milliseconds(seen):
    for clip, found in zip(CLIPS, seen, strict=True):
        step = in_step(found)
        times = sorted({round(b.time, 6) for b in clip.truth.bounces})
        np.testing.assert_allclose(found.seen.bounces, times, atol=0.006)
        np.testing.assert_allclose([tone.time for tone in found.tones], times, atol=0.006)
        assert step.hits == step.total == len(times)


def repainted(clip: Clip, bodies: int | None = None, **names: tuple[str, ...]) -> Clip:
    """The clip with other names for what its bodies are, or with the first `bodies` of them alone."""
    truth, scene = clip.truth, dataclasses.replace(clip.truth.scene, **names)
    kept = Scene(scene.colors[:bodies], scene.shapes[:bodies], scene.sizes[:bodies], scene.background)
    return dataclasses.replace(clip, video=draw(dataclasses.replace(truth, scene=kept), WORLD))


def wrong_colour(clip: Clip) -> Clip:
    free = next(color for color in COLORS if color not in clip.truth.scene.colors)
    return repainted(clip, colors=(free, *clip.truth.scene.colors[1:]))


def wrong_shape(clip: Clip) -> Clip:
    other = {"circle": "square", "square": "circle", "triangle": "diamond", "diamond": "triangle"}
    return repainted(clip, shapes=tuple(other[shape] for shape in clip.truth.scene.shapes))


def one_missing(clip: Clip) -> Clip:
    return repainted(clip, 1)


def late_sound(clip: Clip) -> Clip:
    late = np.pad(clip.audio, ((0, 0), (WORLD.sample_rate // 4, 0)))
    return dataclasses.replace(clip, audio=late[:, : clip.audio.shape[1]])


def frozen(clip: Clip) -> Clip:
    return dataclasses.replace(clip, video=clip.video[:1].repeat(len(clip.video), axis=0))


FAULTS = {  # what must fall by a tenth or more; nothing else may
    wrong_colour: {"colour", *PROMPT},
    wrong_shape: {"shape", *PROMPT},
    one_missing: {"colour", "shape", "count", "size", "smooth", "sync_60ms", *PROMPT},
    late_sound: {"sync_60ms"},
    frozen: {"smooth", "sync_60ms"},
}


@pytest.mark.parametrize("fault, falls", FAULTS.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_a_fault_lowers_its_scores_and_no_other(fault, falls, true_scores):
    found = means(table(PROMPTS, watch([fault(clip) for clip in CLIPS])))
    lowered = {name for name in found if found[name] < true_scores[name] - 0.1}
    moved = {name for name in found if abs(found[name] - true_scores[name]) > 0.02}
    assert lowered == moved == falls, found


def test_swapped_captions_lower_what_captions_say_and_nothing_else(true_scores, seen):
    found = means(table([*PROMPTS[1:], PROMPTS[0]], seen))
    lowered = {name for name in found if not found[name] > true_scores[name] - 0.1}
    assert lowered == ALL - {"inside", "smooth", "sync_60ms"}


def test_a_sound_of_another_shape_or_colour_is_heard(seen):
    wanted = [w for w in PROMPTS if len(w.scene.colors) == 1]
    clips = [clip for w, clip in zip(PROMPTS, seen, strict=True) if len(w.scene.colors) == 1]
    for change, score in (({"shapes": ("circle",)}, "pitch"), ({"colors": ("white",)}, "timbre")):
        asked = [dataclasses.replace(w, scene=dataclasses.replace(w.scene, **change)) for w in wanted]
        right = np.mean([next(iter(change.values()))[0] in (*w.scene.shapes, *w.scene.colors) for w in wanted])
        assert abs(means(table(asked, clips))[score] - right) < 0.1


def test_a_blurred_shape_is_none():
    """A lenient judge proves nothing: a soft blob is no square."""
    for clip in [c for c in CLIPS if c.truth.scene.shapes == ("square",)]:
        soft = ndimage.gaussian_filter(clip.video.astype(float), (0, 4, 4, 0)).astype(np.uint8)
        (body, *_) = look(soft, WORLD.fps).bodies
        assert body.shape != "square"


def test_noise_and_silence_have_no_tones():
    rng = np.random.default_rng(0)
    assert not listen(np.zeros((2, 16000), np.float32), 16000)
    assert not listen(0.01 * rng.normal(size=(2, 16000)).astype(np.float32), 16000)


def test_clips_need_not_be_square():
    wide = WorldConfig(96, 64)
    clip = render(5, 4, wide)
    seen = look(clip.video, wide.fps)
    assert {(b.color, b.shape) for b in seen.bodies} == set(
        zip(clip.truth.scene.colors, clip.truth.scene.shapes, strict=True)
    )
    assert seen.inside and all(body.smooth for body in seen.bodies)


def test_prompts_are_half_unseen_and_never_those_of_training():
    assert np.mean([w.unseen for w in PROMPTS]) == 0.5
    assert draw_prompts(8) == PROMPTS[:8] and draw_prompts(8, seed=1) != PROMPTS[:8]
    assert all(w.prompt.count(color) for w in PROMPTS for color in w.scene.colors)


def test_chance_is_low_and_intervals_hold_the_mean(seen):
    luck, columns = chance(PROMPTS, seen), table(PROMPTS, seen)
    assert luck["colour"] < 0.25 and luck["shape"] < 0.4 and luck["prompt"] < 0.1
    bad = columns | {"colour": np.where(np.arange(len(CLIPS)) % 4 == 0, 0.0, 1.0)}
    low, high = interval(bad)["colour"]
    assert low < 0.75 < high < 0.95
    gain, low, high = difference(bad, columns)["colour"]
    assert low < gain < high and abs(gain - 0.25) < 0.02 and low > 0


def test_the_frechet_distance_knows_truth_from_faults(seen):
    of = lambda clips, seen: np.array(
        [features(c.video, c.audio, o, WORLD.sample_rate) for c, o in zip(clips, seen, strict=True)]
    )
    others = true_clips(PROMPTS, WORLD, 1)
    truth = of(CLIPS, seen)
    scale = truth.std(0) + 1e-3
    floor = frechet(of(others, watch(others)), truth, scale)
    assert 0 < floor < 0.5 and frechet(truth, truth, scale) < 1e-6
    faulty = [frozen(clip) for clip in others]
    assert frechet(of(faulty, watch(faulty)), truth, scale) > 1.5 * floor


@pytest.mark.slow
def test_the_weights_shipped_before_score_under_half_in_shape():
    report = evaluate_toy(open_model("toy").sampler, 16).report()
    assert report["scores"]["shape"] < 0.5 and report["scores"]["colour"] > 0.5
    assert set(report["scores"]) == set(SCORES) and report["prompts"] == 16
