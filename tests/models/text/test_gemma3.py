"""Gemma 3: what may depend on what, configuration styles, initialisation, official names."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.layers import abstract_params, init_params
from ltx_jax.models.text.gemma3 import Gemma3, Gemma3Config, rotary_tables
from ltx_jax.models.text.masks import visible_pairs
from ltx_jax.models.text.rope import inverse_frequencies

CONFIG = Gemma3Config(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    sliding_window=4, vocab_size=30, head_dim=8, query_pre_attn_scalar=8, sliding_window_pattern=2,
)  # fmt: skip
TOKENS = 10


@pytest.fixture
def model(mesh):
    return parameters()


@functools.cache
def parameters():
    ids = jnp.zeros((1, TOKENS), jnp.int32)
    return jax.jit(lambda key: init_params(Gemma3(CONFIG), key, ids, ids))(jax.random.key(0))


@functools.cache
def compiled(config):
    """The compiled call of `config`, made once: compilation is what these tests spend their time on."""
    return jax.jit(lambda p, ids, mask: Gemma3(config).apply({"params": p}, ids, mask))


def run(model, ids, mask=None, **changes):
    ids = jnp.asarray(ids)
    mask = jnp.ones_like(ids) if mask is None else jnp.asarray(mask)
    return np.asarray(compiled(dataclasses.replace(CONFIG, **changes))(model, ids, mask))


def ids_of(seed, rows=1):
    return np.random.default_rng(seed).integers(4, 30, (rows, TOKENS)).astype(np.int32)


def changed_positions(a, b):
    """Positions at which the last hidden state differs."""
    return set(np.flatnonzero(np.abs(a[-1, 0] - b[-1, 0]).max(axis=-1) > 1e-6).tolist())


def test_later_tokens_do_not_reach_earlier_ones(model):
    ids = ids_of(0)
    other = ids.copy()
    other[0, 6] = 3
    assert changed_positions(run(model, ids), run(model, other)) == {6, 7, 8, 9}


def test_window_ends_where_it_should(model):
    ids = ids_of(1)
    other = ids.copy()
    other[0, 0] = 3
    local = ("sliding_attention",) * 2
    # Two layers of window 4 (itself and three before) carry a change over 2 * 3 positions and no further.
    assert changed_positions(run(model, ids, layer_types=local), run(model, other, layer_types=local)) == set(range(7))
    assert changed_positions(run(model, ids), run(model, other)) == set(range(TOKENS))


def test_kind_of_layer_matters_without_a_window_too(model):
    ids = ids_of(2)
    wide = {"sliding_window": TOKENS}
    mixed, local = run(model, ids, **wide), run(model, ids, layer_types=("sliding_attention",) * 2, **wide)
    assert np.abs(mixed[-1] - local[-1]).max() > 1e-4  # the rotary tables differ


def test_rows_are_independent_and_padding_is_unseen(model):
    ids, mask = ids_of(3, rows=2), np.ones((2, TOKENS), np.int32)
    mask[0, :4] = 0
    both = run(model, ids, mask)
    np.testing.assert_allclose(both[:, :1], run(model, ids[:1], mask[:1]), atol=1e-5)
    garbage = ids.copy()
    garbage[0, :4] = 29
    np.testing.assert_allclose(run(model, garbage, mask)[:, 0, 4:], both[:, 0, 4:], atol=1e-5)
    assert np.isfinite(both).all()


def test_left_padding_only_shifts_the_positions(model):
    ids = ids_of(4)
    padded = np.concatenate([np.zeros((1, 3), np.int32), ids], axis=1)
    mask = np.concatenate([np.zeros((1, 3), np.int32), np.ones_like(ids)], axis=1)
    np.testing.assert_allclose(run(model, padded, mask)[:, :, 3:], run(model, ids), atol=2e-5)


def test_stack_begins_with_the_scaled_embedding_and_ends_normed(model):
    ids = ids_of(5)
    states = run(model, ids)
    assert states.shape == (CONFIG.num_hidden_layers + 1, 1, TOKENS, CONFIG.hidden_size)
    np.testing.assert_allclose(states[0], np.asarray(model["embedding"])[ids] * 4, rtol=1e-6)
    np.testing.assert_allclose(np.square(states[-1]).mean(axis=-1), 1, rtol=1e-4)  # the norm's weight is zero


def test_initialisation_has_unit_scale(model):
    states = run(model, ids_of(6))
    assert 0.5 < np.sqrt(np.square(states[0]).mean()) < 1.5


def test_bfloat16_and_remat_agree_with_float32(model):
    ids = jnp.asarray(ids_of(7))
    low = jax.jit(Gemma3(CONFIG, dtype=jnp.bfloat16).apply)({"params": model}, ids, jnp.ones_like(ids))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(low, np.float32), run(model, ids), atol=0.15)
    loss = lambda m: lambda p: jnp.sum(m.apply({"params": p}, ids, jnp.ones_like(ids))[-1] ** 3)
    ours, theirs = (jax.jit(jax.grad(loss(Gemma3(CONFIG, remat=r))))(model) for r in ("none", "full"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), ours, theirs)


def test_every_parameter_names_its_axes(mesh):
    ids = jnp.zeros((1, TOKENS), jnp.int32)
    shapes, axes = abstract_params(Gemma3(CONFIG), ids, ids)
    assert axes["embedding"] == ("vocab", "embed")
    assert axes["layers"]["q_proj"]["kernel"] == ("layers", "embed", "heads")
    assert axes["layers"]["down_proj"]["kernel"] == ("layers", "mlp", "embed")
    assert axes["layers"]["q_norm"][0] == "layers"
    jax.tree.map(lambda s, a: pytest.fail("axes") if len(a) != s.ndim else None, shapes, axes)


def test_global_tables_are_slowed_by_the_factor():
    full = inverse_frequencies(256, 1e6, 8.0)
    np.testing.assert_allclose(full, 1e6 ** (-np.arange(128) / 128) / 8, rtol=1e-6)
    cos, sin = rotary_tables(dataclasses.replace(CONFIG, rope_factor=8.0), 5)
    assert cos.shape == (2, 5, 4)
    np.testing.assert_allclose(np.arctan2(sin, cos)[:, 1, 0], [1, 1 / 8], rtol=1e-6)


def test_image_blocks_see_ahead():
    mask, types = jnp.ones((1, 6)), jnp.asarray([[0, 1, 1, 1, 0, 1]])
    full = np.asarray(visible_pairs(mask, None, types))[0]
    assert full[1, 3] and not full[1, 5] and not full[0, 1]
    local = np.asarray(visible_pairs(mask, 2, types))[0]
    assert local[1, 3] and not local[3, 1]


OLD_STYLE = {
    "hidden_size": 3840, "intermediate_size": 15360, "model_type": "gemma3_text", "num_attention_heads": 16,
    "num_hidden_layers": 48, "num_key_value_heads": 8, "sliding_window": 1024,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
}  # fmt: skip


def test_missing_fields_take_the_published_defaults():
    c = Gemma3Config.from_official(OLD_STYLE)
    assert (c.vocab_size, c.head_dim, c.query_pre_attn_scalar, c.rope_factor) == (262208, 256, 256, 8)
    assert [i for i, full in enumerate(c.global_layers) if full] == [5, 11, 17, 23, 29, 35, 41, 47]


def test_new_style_means_the_same():
    new = {k: v for k, v in OLD_STYLE.items() if k != "rope_scaling"}
    new["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    assert Gemma3Config.from_official(new) == Gemma3Config.from_official(OLD_STYLE)
    kinds = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(48)]
    listed = Gemma3Config.from_official({**new, "layer_types": kinds})
    assert listed.global_layers == Gemma3Config.from_official(OLD_STYLE).global_layers


@pytest.mark.parametrize("changes", [{}, {"rope_factor": 8.0, "layer_types": ("full_attention",) * 2}])
def test_official_form_reads_back(changes):
    config = dataclasses.replace(CONFIG, **changes)
    assert Gemma3Config.from_official(config.to_official()) == config


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "gemma4_unified"}, "gemma4_unified"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8}}, "yarn"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"layer_types": ["full_attention"]}, "1 entries for 48"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_unsupported_configurations_give_sentences(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        Gemma3Config.from_official({**OLD_STYLE, **changes})
