"""Requests: defaults of the release, one sentence for every mistake."""

import pytest

from ltx_jax.errors import UserError
from ltx_jax.pipelines.request import Request
from ltx_jax.releases import release


def test_defaults_come_from_the_release():
    request = Request(("a red circle",)).resolve(release("toy"))
    assert (request.width, request.height, request.num_frames, request.fps) == (32, 32, 17, 8.0)
    full = Request(("x",)).resolve(release("ltx2_19b"))
    assert (full.width, full.num_frames, full.steps, full.seed) == (768, 121, 40, 10)


def test_one_scale_serves_both_streams_unless_both_are_given():
    assert Request(("x",), cfg=2.0).resolve(release("toy")).audio_cfg == 2.0
    assert Request(("x",), cfg=2.0, audio_cfg=5.0).resolve(release("toy")).audio_cfg == 5.0


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
        ({"enhance_instructions": "a.txt"}, "nothing without enhance_prompt"),
    ],
)  # fmt: skip
def test_mistakes_are_said(settings, words):
    with pytest.raises(UserError, match=words.replace("+", r"\+")):
        Request(**({"prompts": ("x",)} | settings)).resolve(release("toy"))
