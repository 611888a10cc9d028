"""Release 2.0: keys and values of the text are made once for a clip, and the clip is the same as if in every step."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import ltx_jax
from ltx_jax.pipelines import programs
from ltx_jax.pipelines.sampler import Sampler

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny import save_tiny_model, tiny_release

SETTINGS = {"seed": 3, "steps": 2, "cfg": 2.0, "num_frames": 5, "width": 16, "height": 16}


@pytest.mark.slow
def test_a_clip_does_not_depend_on_when_its_text_is_read(tmp_path, monkeypatch):
    release = tiny_release()
    static = dataclasses.replace(release.transformer, cross_attention_adaln=False)
    folder = save_tiny_model(tmp_path, of=dataclasses.replace(release, transformer=static))
    made = []
    remember = programs.make_text_memory_program
    monkeypatch.setattr(programs, "make_text_memory_program", lambda *a: made.append(a) or remember(*a))
    once = ltx_jax.generate(ltx_jax.load(folder), "a red circle", **SETTINGS)
    assert len(made) == 1  # one program for both texts
    monkeypatch.setattr(programs, "_abstract_memory", programs._abstract_texts)
    monkeypatch.setattr(Sampler, "_texts", Sampler._contexts)
    always = ltx_jax.generate(ltx_jax.load(folder), "a red circle", **SETTINGS)
    difference = np.abs(once.video.astype(int) - always.video.astype(int))
    assert difference.max() <= 2 and once.video.std() > 1
