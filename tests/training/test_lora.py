"""Adapters: dropout that neither batch nor padding changes, and first values from a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_release

from ltx_jax.bundle import abstract_parts, make_networks
from ltx_jax.checkpoints.lora import save_lora
from ltx_jax.errors import UserError
from ltx_jax.models.layers import Linear, dropout
from ltx_jax.names.dit import dit_names
from ltx_jax.training.lora import LoRAConfig, abstract_lora, initial_lora, loaded_lora, with_dropout
from ltx_jax.training.step import sample_keys

CONFIG = LoRAConfig(rank=4, alpha=2, target_modules=("attn1.to_q", "ff.net.2"))


@pytest.fixture
def shapes(mesh):
    release = tiny_release()
    found, axes = abstract_parts(make_networks(release), ("transformer",))
    return abstract_lora(CONFIG, release.transformer, found["transformer"], axes["transformer"])[0]


def test_dropout_keeps_the_mean_and_follows_from_the_sample_alone():
    keys = sample_keys(0, "x", jnp.int32(3), 4)
    x = jnp.ones((4, 500, 8))
    y = dropout(x, keys, jnp.float32(0.75))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)} and abs(float(jnp.mean(y)) - 1) < 0.02
    np.testing.assert_array_equal(dropout(x[1:3, :200], keys[1:3], jnp.float32(0.75)), y[1:3, :200])


def test_every_layer_drops_its_own_inputs_and_the_base_sees_all(shapes):
    lora = with_dropout(initial_lora(shapes, 0), 0.5, sample_keys(0, "x", jnp.int32(3), 2))
    leaves = [node["to_q"] if "to_q" in node else node["out"] for m in lora["blocks"].values() for node in m.values()]
    keys = np.concatenate([jax.random.key_data(leaf["keys"]).reshape(-1, 2) for leaf in leaves])
    assert len(np.unique(keys, axis=0)) == len(keys) == 2 * 2 * len(leaves)
    layer = Linear(3, ("embed", "mlp"))
    params = layer.init(jax.random.key(0), jnp.zeros((2, 5, 8)))["params"]
    x, first = jax.random.normal(jax.random.key(1), (2, 5, 8)), keys[:2]
    adapter = {"a": jnp.eye(8), "b": jnp.ones((8, 3))}
    alone, dropped = (
        layer.apply({"params": params, "lora": values}, x)
        for values in (adapter, adapter | {"keys": jax.random.wrap_key_data(first), "keep": jnp.float32(0.5)})
    )
    apart = dropout(x, jax.random.wrap_key_data(first), jnp.float32(0.5))
    np.testing.assert_allclose(dropped - alone, (apart - x) @ jnp.ones((8, 3)), atol=1e-5)


def test_a_saved_lora_is_where_the_next_one_starts(shapes, tmp_path, capsys):
    dit, path = tiny_release().transformer, tmp_path / "lora.safetensors"
    values = jax.tree.map(lambda x: np.asarray(jax.random.normal(jax.random.key(1), x.shape)), shapes)
    save_lora(path, values, dit_names(dit), scale=CONFIG.scale, dtype=np.float32)
    start = lambda **changes: loaded_lora(
        LoRAConfig(**{"init": str(path), "rank": 4, "alpha": 2} | changes), dit, *rest
    )
    rest = (shapes, 0)
    loaded = start(target_modules=CONFIG.target_modules)
    assert all(map(np.array_equal, jax.tree.leaves(loaded), jax.tree.leaves(values)))
    assert not capsys.readouterr().err
    start(target_modules=("attn1.to_q",))
    assert "lacks 0 of 2 adapted layers, and has 2 others" in capsys.readouterr().err
    with pytest.raises(UserError, match="rank 4; set"):
        start(rank=8, target_modules=("attn1.to_q",))
    with pytest.raises(UserError, match="none of the layers"):
        start(target_modules=("audio_attn1.to_q",))
    with pytest.raises(UserError, match=r"missing\.safetensors"):
        start(init=str(tmp_path / "missing.safetensors"))


def test_dropout_must_leave_something():
    with pytest.raises(UserError, match="dropout"):
        LoRAConfig(dropout=1.0)
