"""Keys and values of the text made once: the transformer answers as if it had made them itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.dit.text import remember_text
from ltx_jax.streams import Context, TextMemory


def remembered(config, params, *texts):
    """The memory of texts (video tokens, audio tokens) each, as two contexts without tokens."""
    made = lambda m, i: [remember_text(config, m, params, text[i], jnp.float32) for text in texts]
    memory = jax.jit(lambda: [tuple(zip(*made(m, i), strict=True)) for i, m in enumerate(("video", "audio"))])()
    rows = tuple(range(len(texts)))
    return [Context(None, memory=TextMemory(*pair, rows)) for pair in memory]


@pytest.fixture(params=["2.0", "a static table"])
def config(tiny, request):
    return tiny.old if request.param == "2.0" else dataclasses.replace(tiny.config, use_prompt_adaln_single=False)


def test_a_memory_answers_as_its_text(tiny, config, mesh):
    params = tiny.random_params(config)
    video, audio, *texts = tiny.streams(config)
    expected = tiny.forward(config, params, (video, audio, *texts))
    memory = remembered(config, params, [text.tokens for text in texts])
    found = tiny.forward(config, params, (video, audio, *memory))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    other = remembered(config, params, [text.tokens + 1 for text in texts])
    changed = tiny.forward(config, params, (video, audio, *other))
    assert np.abs(changed[0] - expected[0]).max() > 1e-3


def test_groups_of_rows_read_their_own_text(tiny, mesh):
    """Three groups of two rows, of which the first and the last read the same text."""
    config = tiny.old
    params = tiny.random_params(config)
    video, audio, *texts = tiny.streams(config, batch=6)
    parts = [[text.tokens[:2] for text in texts], [text.tokens[2:4] for text in texts]]
    joined = [Context(jnp.concatenate([parts[0][i], parts[1][i], parts[0][i]])) for i in (0, 1)]
    expected = tiny.forward(config, params, (video, audio, *joined))
    memory = [c.replace(memory=c.memory.replace(rows=(0, 1, 0))) for c in remembered(config, params, *parts)]
    found = tiny.forward(config, params, (video, audio, *memory))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_text_that_the_noise_level_modulates_is_not_remembered(tiny, mesh):
    video, audio, *texts = tiny.streams(tiny.config)
    kept = [text.replace(memory=TextMemory((text.tokens,), (text.tokens,))) for text in texts]
    with pytest.raises(UserError, match="noise level modulates"):
        tiny.forward(tiny.config, tiny.params, (video, audio, *kept))
