"""Feature extractors and connectors: padding side, independence, registers, configuration."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.layers import abstract_params, init_params
from ltx_jax.models.text.connectors import TextConnectors, TextConnectorsConfig, fill_with_registers, move_to_front
from ltx_jax.models.text.features import range_normalize, stack_states, token_normalize

H, G, S, REGISTERS = 8, 3, 8, 4
V1 = TextConnectorsConfig(
    feature_extractor="v1", num_hidden_states=G, hidden_size=H, connector_num_attention_heads=2,
    connector_attention_head_dim=4, connector_num_layers=1, connector_positional_embedding_max_pos=(64.0,),
    connector_num_learnable_registers=REGISTERS, frequencies_precision="float64",
)  # fmt: skip
V2 = dataclasses.replace(
    V1, feature_extractor="v2", audio_connector_attention_head_dim=2, connector_apply_gated_attention=True
)
BOTH = pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])


def states(seed, rows=1):
    return np.random.default_rng(seed).normal(size=(rows, S, H, G)).astype(np.float32)


@functools.cache
def compiled(config):
    """Parameters and the compiled call of `config`, made once: compilation is what these tests spend their time on."""
    module = TextConnectors(config)
    params = jax.jit(lambda key: init_params(module, key, jnp.zeros((1, S, H, G)), jnp.ones((1, S))))(jax.random.key(1))
    return params, jax.jit(lambda p, x, mask: module.apply({"params": p}, x, mask))


def run(config, x, mask):
    params, call = compiled(config)
    return [np.asarray(y) for y in call(params, jnp.asarray(x), jnp.asarray(mask))]


@BOTH
def test_padding_side_does_not_matter(mesh, config):
    x, real = states(0), 5
    left = np.concatenate([states(1)[:, real:], x[:, :real]], axis=1)
    right = np.concatenate([x[:, :real], states(2)[:, real:] * 100], axis=1)  # padding of any content
    on_left, on_right = ([[0] * (S - real) + [1] * real], [[1] * real + [0] * (S - real)])
    for a, b in zip(run(config, left, on_left), run(config, right, on_right), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@BOTH
def test_rows_are_independent(mesh, config):
    x, mask = states(3, rows=2), [[1] * S, [0, 0, 0, 1, 1, 1, 1, 1]]
    for both, alone in zip(run(config, x, mask), run(config, x[1:], mask[1:]), strict=True):
        np.testing.assert_allclose(both[1:], alone, atol=1e-5)


@BOTH
def test_garbage_at_padding_stays_out(mesh, config):
    x, mask = states(4), [[0, 0, 1, 1, 1, 1, 1, 1]]
    garbage = x.copy()
    garbage[:, :2] = np.nan
    for a, b in zip(run(config, x, mask), run(config, garbage, mask), strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, atol=1e-6)


@BOTH
def test_text_without_a_token_is_finite(mesh, config):
    assert all(np.isfinite(y).all() for y in run(config, states(5), [[0] * S]))


def test_move_to_front_is_stable():
    x = jnp.arange(6.0)[None, :, None]
    moved, mask = move_to_front(x, jnp.asarray([[0, 1, 0, 1, 1, 0]]))
    assert moved[0, :, 0].tolist() == [1, 3, 4, 0, 2, 5]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0]]


def test_registers_are_indexed_by_absolute_position():
    registers = jnp.asarray([[10.0], [11.0]])
    filled = fill_with_registers(jnp.zeros((1, 6, 1)), jnp.asarray([[1, 1, 1, 0, 0, 0]]), registers)
    assert filled[0, :, 0].tolist() == [0, 0, 0, 11, 10, 11]
    with pytest.raises(UserError, match="no multiple of the 2 registers"):
        fill_with_registers(jnp.zeros((1, 5, 1)), jnp.ones((1, 5)), registers)


def test_without_registers_padding_is_masked(mesh):
    config = dataclasses.replace(V2, connector_num_learnable_registers=0)
    x, mask = states(6), [[0, 0, 0, 1, 1, 1, 1, 1]]
    other = x.copy()
    other[:, :3] += 1
    for a, b in zip(run(config, x, mask), run(config, other, mask), strict=True):
        np.testing.assert_allclose(a[:, :5], b[:, :5], atol=1e-6)


def test_normalisations_match_their_formulas():
    x, mask = states(7), np.asarray([[0, 1, 1, 1, 1, 1, 1, 0]])
    valid = x[0, 1:7]  # (6, H, G)
    mean, spread = valid.mean(axis=(0, 1)), valid.max(axis=(0, 1)) - valid.min(axis=(0, 1))
    v1 = np.asarray(range_normalize(jnp.asarray(x), jnp.asarray(mask)))
    np.testing.assert_allclose(v1[0, 1:7], 8 * (valid - mean) / spread, atol=1e-5)
    v2 = np.asarray(token_normalize(jnp.asarray(x), jnp.asarray(mask)))
    np.testing.assert_allclose(np.square(v2[0, 1:7]).mean(axis=1), 1, atol=1e-4)
    assert not v1[0, [0, 7]].any() and not v2[0, [0, 7]].any()


def test_layer_is_the_fastest_axis():
    stacked = stack_states(jnp.arange(2 * 3).reshape(2, 1, 1, 3))  # (G, B, S, H)
    assert stacked.reshape(-1).tolist() == [0, 3, 1, 4, 2, 5]


def test_halves_make_the_whole(mesh):
    x, mask = jnp.asarray(states(8)), jnp.ones((1, S), int)
    bound = TextConnectors(V2).bind({"params": compiled(V2)[0]})
    halves = jax.jit(lambda x, mask: bound.connect(*bound.extract(x, mask), mask))(x, mask)
    for a, b in zip(run(V2, x, mask), halves, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(UserError, match="Hidden states"):
        bound.extract(x[..., :2], mask)


def test_every_parameter_names_its_axes(mesh):
    shapes, axes = abstract_params(TextConnectors(V2), jnp.zeros((1, S, H, G)), jnp.ones((1, S)))
    assert axes["features"]["video_aggregate_embed"]["kernel"] == ("embed", "heads")
    assert axes["video_connector"]["learnable_registers"] == ("rows", "embed")
    assert axes["audio_connector"]["layers"]["attn1"]["to_q"]["kernel"] == ("layers", "embed", "heads")
    jax.tree.map(lambda s, a: pytest.fail("axes") if len(a) != s.ndim else None, shapes, axes)


def test_defaults_are_the_references():
    c = TextConnectorsConfig.from_official({})
    assert (c.video.width, c.audio.width, c.video.layers, c.audio.layers) == (3840, 3840, 2, 2)
    assert (c.video.max_pos, c.video.registers, c.video.precision, c.feature_extractor) == ((1,), 128, "float32", "v1")


@BOTH
def test_official_form_reads_back(config):
    assert TextConnectorsConfig.from_official(config.to_official(), num_hidden_states=G) == config


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"caption_proj_before_connector": True}, "caption projection"),
        ({**V2.to_official(), "caption_proj_input_norm": True}, "caption projection"),
        ({**V1.to_official(), "audio_connector_attention_head_dim": 2}, "feeds both connectors"),
        ({"connector_positional_embedding_max_pos": [20, 2048]}, "one entry"),
        ({"rope_type": "spiral"}, "spiral"),
    ],
)
def test_unknown_configurations_give_sentences(keys, sentence):
    with pytest.raises(UserError, match=sentence):
        TextConnectorsConfig.from_official(keys)
