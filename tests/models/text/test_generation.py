"""Writing with a cache: the same as reading everything at once, one compiled loop, rules of choosing. Greedy texts of
Gemma 3 are recorded (tests/golden/gemma)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.layers import init_params
from ltx_jax.models.text.config import Gemma3Config, Gemma4Config
from ltx_jax.models.text.gemma3 import Gemma3
from ltx_jax.models.text.gemma4 import Gemma4
from ltx_jax.models.text.generation import Writing, clean, repeated, write

SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "sliding_window": 4, "vocab_size": 30, "head_dim": 8,
}  # fmt: skip
LOCAL, GLOBAL = "sliding_attention", "full_attention"
MODELS = {
    "gemma3": Gemma3(Gemma3Config(**SIZES, sliding_window_pattern=2)),
    "gemma4": Gemma4(Gemma4Config(**SIZES, global_head_dim=16, layer_types=(LOCAL, GLOBAL) * 2)),
}
PROMPTS = np.array([[0, 0, 0, 2, 9, 5], [2, 7, 8, 9, 11, 4]], np.int32)
MASK = (PROMPTS != 0).astype(np.int32)


@pytest.fixture(params=MODELS)
def model(request, mesh):
    return MODELS[request.param]


@functools.cache
def parameters(model):
    return jax.jit(lambda key: init_params(model, key, PROMPTS, MASK))(jax.random.key(1))


@functools.cache
def writer(model, how):
    return jax.jit(lambda p, ids, mask, key: write(model, p, ids, mask, how, key))


def text_of(model, how, seed=0, rows=slice(None)):
    ids, count = writer(model, how)(parameters(model), PROMPTS[rows], MASK[rows], jax.random.key(seed))
    return [row[:n].tolist() for row, n in zip(np.asarray(ids), np.asarray(count), strict=True)]


def test_every_token_is_the_likeliest_of_the_model_that_reads_all_at_once(model):
    """Past the window, with padding in front: the cache must hide and keep what attention over everything does."""
    written = text_of(model, Writing(8))
    for row, new in enumerate(written):
        whole = jnp.asarray([[*PROMPTS[row][MASK[row] == 1], *new]])  # without padding: only differences count
        states = jax.jit(model.apply)({"params": parameters(model)}, whole, jnp.ones_like(whole))
        logits = model.apply({"params": parameters(model)}, states[-1], method="logits")[0]
        assert np.argmax(logits[-len(new) - 1 : -1], axis=-1).tolist() == new


def test_a_text_does_not_depend_on_the_others_and_ends_with_a_stop_token(model):
    free = text_of(model, Writing(8))
    stop = (free[0][2],)
    how = Writing(8, stop=stop)
    both = text_of(model, how)
    expected = [row[: row.index(stop[0]) + 1] if stop[0] in row else row for row in free]
    assert both == expected and len(both[0]) <= 3
    assert [text_of(model, how, rows=slice(i, i + 1))[0] for i in (0, 1)] == both


def test_draws_follow_the_seed_and_stay_among_the_likeliest(model):
    how = Writing(8, temperature=5.0, top_k=2)
    first = text_of(model, how)
    assert first == text_of(model, how) and any(text_of(model, how, seed) != first for seed in (1, 2, 3))
    assert text_of(model, Writing(8, temperature=5.0, top_k=1)) == text_of(model, Writing(8))


def test_no_run_of_tokens_is_written_twice(model):
    size = 2
    for row, new in enumerate(text_of(model, Writing(20, no_repeat_ngram=size))):
        whole = [*PROMPTS[row], *new]
        runs = [tuple(whole[i : i + size]) for i in range(len(whole) - size + 1)]
        given = len(PROMPTS[row]) - size + 1
        assert len(set(runs[given:])) == len(runs[given:]) and not set(runs[given:]) & set(runs[:given])


def test_runs_are_found_within_what_is_filled():
    ids = jnp.asarray([[5, 6, 7, 5, 6, 7, 5, 6]])
    assert np.flatnonzero(repeated(ids, 5, 3, 10)).tolist() == [7]
    assert np.flatnonzero(repeated(ids, 4, 2, 10)).tolist() == [6]
    assert not np.any(repeated(ids, 2, 3, 10)) and not np.any(repeated(ids, 3, 3, 10))


def test_answers_are_cleaned():
    assert clean("**\u201cÉlan\u201d \u2013 it\u2019s\u00a0on") == "Élan\" - it's on"
    assert clean("12 !") == "12 !"


@pytest.mark.parametrize("settings", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_k": -1}])
def test_mistakes_are_said(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Writing(**settings)
