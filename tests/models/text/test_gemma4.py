"""Gemma 4: configuration, kinds of layers, what may depend on what. Its numbers are recorded (tests/golden/gemma)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.config import from_mapping, to_mapping
from ltx_jax.errors import UserError
from ltx_jax.models.layers import init_params
from ltx_jax.models.text.config import Gemma3Config, Gemma4Config, text_config
from ltx_jax.models.text.gemma4 import Gemma4
from ltx_jax.releases import Release, release

LOCAL, GLOBAL = "sliding_attention", "full_attention"
CONFIG = Gemma4Config(
    hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=2,
    sliding_window=4, vocab_size=30, head_dim=8, global_head_dim=16, layer_types=(LOCAL, GLOBAL) * 2,
)  # fmt: skip


def states(config, ids):
    mask = jnp.ones_like(ids)
    params = jax.jit(lambda key: init_params(Gemma4(config), key, ids, mask))(jax.random.key(0))
    return params, jax.jit(Gemma4(config).apply)({"params": params}, ids, mask)


def test_kinds_of_layers_repeat_after_a_period():
    full = release("ltx2_5_22b").text
    assert isinstance(full, Gemma4Config) and full.period == 6
    assert [i for i, kind in enumerate(full.global_layers) if kind] == [5, 11, 17, 23, 29, 35, 41, 47]
    assert CONFIG.period == 2
    assert dataclasses.replace(CONFIG, layer_types=(LOCAL, LOCAL, GLOBAL, LOCAL)).period == 4
    assert full.heads_of(True) == (16, 1, 512) and full.heads_of(False) == (16, 8, 256)


def test_global_values_are_keys_unless_the_config_says_otherwise(mesh):
    ids = jnp.arange(4, 10)[None]
    own = dataclasses.replace(CONFIG, attention_k_eq_v=False)
    params, _ = states(CONFIG, ids)
    assert "v_proj" not in params["layers"]["layer_1"] and "v_proj" in params["layers"]["layer_0"]
    params, found = states(own, ids)
    assert params["layers"]["layer_1"]["v_proj"]["kernel"].shape == (2, 16, 2 * 16)
    assert found.shape == (5, 1, 6, 16)


def test_later_tokens_do_not_reach_earlier_ones_and_the_window_is_local(mesh):
    ids = jnp.asarray(np.random.default_rng(0).integers(4, 30, (1, 10)))
    params, found = states(CONFIG, ids)
    apply = jax.jit(Gemma4(CONFIG).apply)
    changed = lambda at: np.flatnonzero(
        np.abs(apply({"params": params}, ids.at[0, at].set(3), jnp.ones_like(ids)) - found).max(axis=(1, 3))[1] > 1e-6
    )
    assert changed(6).tolist() == [6, 7, 8, 9]  # after the first, local layer: three more tokens see it
    assert changed(2).tolist() == [2, 3, 4, 5]


def test_official_form_reads_back_and_null_means_no_cap():
    for config in (CONFIG, dataclasses.replace(CONFIG, final_logit_softcapping=None, layer_types=())):
        assert Gemma4Config.from_official(config.to_official()) == config
        assert text_config({"text_config": config.to_official()}) == config
    assert isinstance(text_config(Gemma3Config(8, 8, 2, 2, 1, 4).to_official()), Gemma3Config)


def test_a_release_of_either_family_reads_back_from_a_config():
    for name in ("ltx2_5_22b", "ltx2_3_22b"):
        assert from_mapping(Release, to_mapping(release(name))) == release(name)
    wrong = to_mapping(release("ltx2_3_22b"))
    wrong["text"]["query_pre_attn_scaler"] = 1.0
    with pytest.raises(UserError, match="did you mean 'query_pre_attn_scalar'"):
        from_mapping(Release, wrong)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "gemma3_text"}, "gemma3_text"),
        ({"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input"),
        ({"num_kv_shared_layers": 20}, "num_kv_shared_layers"),
        ({"rope_parameters": {GLOBAL: {"rope_type": "yarn"}}}, "yarn"),
        ({"num_global_key_value_heads": 3}, "multiple"),
    ],
)
def test_unsupported_configurations_give_sentences(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        Gemma4Config.from_official({**CONFIG.to_official(), **changes})
