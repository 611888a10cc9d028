"""Requests: defaults of the release, one sentence for every mistake."""

import pytest

from ltx_jax.diffusion.guidance import passes
from ltx_jax.errors import UserError
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.tasks import stages_of
from ltx_jax.releases import release


def test_defaults_come_from_the_release():
    request = Request(("a red circle",)).resolve(release("toy"))
    assert (request.width, request.height, request.num_frames, request.fps) == (32, 32, 17, 8.0)
    full = Request(("x",)).resolve(release("ltx2_19b"))
    assert (full.width, full.num_frames, full.steps, full.seed) == (768, 121, 40, 10)


def test_one_scale_serves_both_streams_unless_both_are_given():
    assert Request(("x",), cfg=2.0).resolve(release("toy")).audio_cfg == 2.0
    assert Request(("x",), cfg=2.0, audio_cfg=5.0).resolve(release("toy")).audio_cfg == 5.0


def test_full_releases_are_guided_as_published_and_a_scale_of_one_turns_all_off():
    video, audio = Request(("x",)).resolve(release("ltx2_3_22b")).guides()
    assert (video.cfg_scale, video.stg_scale, video.stg_blocks, video.modality_scale) == (3.0, 1.0, (28,), 3.0)
    assert (audio.cfg_scale, audio.rescale_scale, audio.stg_blocks) == (7.0, 0.7, (28,))
    off = Request(("x",), cfg=1.0).resolve(release("ltx2_19b"))
    assert all(passes(guide, None) == ("cond",) for guide in off.guides())
    some = Request(("x",), cfg=1.0, stg=0.5, audio_stg=0.0).resolve(release("ltx2_19b")).guides()
    assert [guide.stg_scale for guide in some] == [0.5, 0.0]


def test_steps_can_be_given_as_noise_levels_and_guidance_a_range_of_them():
    request = Request(("x",), sigmas=(1.0, 0.4, 0.0), stepper="res_2s", eta=0.2, guidance_range=(0.5, 1.0))
    request = request.resolve(release("toy")).resolve(release("toy"))  # resolving twice changes nothing
    (stage,) = stages_of(request)
    assert stage.sigmas == (1.0, 0.4, 0.0) and stage.steps == 3  # and the last prediction
    assert (stage.stepper, stage.options) == ("res_2s", (("eta", 0.2),))
    guide = stage.video.guidance
    assert [guide.at(sigma).cfg_scale for sigma in (0.9, 0.51, 0.4)] == [3.0, 3.0, 1.0]


def test_the_steppers_of_families_take_their_numbers():
    request = Request(("x",), schedule="edm", stepper="edm", churn=5.0, cfg_every=2).resolve(release("toy"))
    (stage,) = stages_of(request)
    assert (stage.stepper, stage.options) == ("edm", (("churn", 5.0),))
    assert [part.guidance.cfg_every for part in (stage.video, stage.audio)] == [2, 2]
    assert stage.sigmas[0] < 1 and stage.sigmas[-1] == 0


def test_every_clip_has_its_own_number():
    assert Request(("a", "b"), num_samples=2).clips == [("a", 0), ("a", 1), ("b", 2), ("b", 3)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompts": ()}, "no prompt"), ({"prompts": (" ",)}, "empty"), ({"steps": 0}, "steps"),
        ({"num_samples": 0}, "num_samples"), ({"fps": 0.0}, "fps"), ({"width": 33}, "multiple of 8"),
        ({"height": -16}, "multiple of 8"), ({"num_frames": 16}, "1 + k x 4"), ({"cfg": -1.0}, "cfg"),
        ({"image": "none.png"}, "no image"), ({"seed": 2**64}, "0..2"), ({"seed": -1}, "0..2"),
        ({"cfg": float("nan")}, "must be a number"), ({"fps": 1e-4}, "at most 600"), ({"schedule": "karras"}, "ltx2"),
        ({"fps": 1e5}, "fps"), ({"rescale": 7.0}, "in 0..1"), ({"image_strength": 0.5}, "nothing without image"),
        ({"enhance_instructions": "a.txt"}, "nothing without enhance_prompt"), ({"stepper": "dpm"}, "no stepper"),
        ({"eta": 0.5}, "eta does nothing"), ({"churn": 0.5}, "churn does nothing .* use one of edm"),
        ({"cfg_every": 0}, "cfg_every is 0"), ({"sigmas": (1.0, 0.5)}, "down to 0"), ({"stg": -1.0}, "stg is"),
        ({"sigmas": (1.0, 0.0), "steps": 3}, "leave one"), ({"guidance_range": (0.5, 0.2)}, "lower one first"),
        ({"stg_blocks": (-1,)}, "count from 0"), ({"audio_stg_blocks": (5,)}, "names block 5"),
        ({"guidance_rule": "more"}, "no guidance rule"),
    ],
)  # fmt: skip
def test_mistakes_are_said(settings, words):
    with pytest.raises(UserError, match=words.replace("+", r"\+")):
        Request(**({"prompts": ("x",)} | settings)).resolve(release("toy"))
