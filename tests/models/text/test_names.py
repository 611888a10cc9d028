"""Names and shapes of the text stack at full size against the published key tables."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.models.layers import abstract_params, init_params
from ltx_jax.models.text.config import Gemma4Config
from ltx_jax.models.text.connectors import TextConnectors, TextConnectorsConfig
from ltx_jax.models.text.duration import DurationConfig, DurationHead
from ltx_jax.models.text.gemma3 import Gemma3, Gemma3Config
from ltx_jax.models.text.gemma4 import Gemma4
from ltx_jax.names import to_official, to_tree
from ltx_jax.names.connectors import text_connectors_names
from ltx_jax.names.duration import duration_names
from ltx_jax.names.gemma3 import gemma3_names
from ltx_jax.names.gemma4 import gemma4_names
from ltx_jax.parts import DURATION_PREFIX
from ltx_jax.releases import release

GOLDEN = Path(__file__).parents[2] / "golden"
GEMMA_PREFIX = "language_model.model."


def official_shapes(names, shapes):
    """{official template: shape}, and how many tensors there are, of names over a tree of shapes."""
    found, leaves = {}, 0
    for name in names:
        leaf = shapes
        for key in name.path:
            leaf = leaf[key]
        shape = tuple(leaf.shape)
        if name.layers is not None:
            assert shape[0] == name.layers
            shape = shape[1:]
        if name.axes is not None:
            shape = tuple(shape[i] for i in np.argsort(name.axes))
        found[name.official] = list(shape)
        leaves += 1
    assert leaves == len(jax.tree.leaves(shapes)), "a parameter has no name"
    return found, sum(len(n.officials()) for n in names)


@pytest.mark.parametrize(("release", "count"), [("2.0", 58), ("2.3", 258), ("2.5", 258)])
def test_connectors_and_features(mesh, release, count):
    table = json.loads((GOLDEN / "dit" / "keys_text.json").read_text())["releases"][release]
    config = TextConnectorsConfig.from_official(table["config_transformer"])
    names = text_connectors_names(config)
    hidden = np.zeros((1, 128, config.hidden_size, config.num_hidden_states), np.float32)
    shapes, _ = abstract_params(TextConnectors(config), hidden, np.ones((1, 128)))
    found, tensors = official_shapes(names, shapes)
    expected = table["keys"]
    assert found == {k: v[0] for k, v in expected.items()}
    assert tensors == sum(v[2] for v in expected.values())
    assert tensors - sum("text_embedding_proj" in k for k in expected) == count


def test_gemma3(mesh):
    table = json.loads((GOLDEN / "gemma" / "keys.json").read_text())["gemma3"]
    config = Gemma3Config(3840, 15360, 48, 16, 8, 1024)
    ids = jnp.zeros((1, 4), jnp.int32)
    shapes, _ = abstract_params(Gemma3(config), ids, ids)
    found, tensors = official_shapes(gemma3_names(config), shapes)
    text = {k.removeprefix(GEMMA_PREFIX): v for k, v in table.items() if k.startswith(GEMMA_PREFIX)}
    assert found == {k: v[0][0] if "{i}" in k else v for k, v in text.items()}
    assert tensors == 2 + 48 * 13
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 11_766_034_176


def test_gemma4(mesh):
    """Every tensor of the packed file's decoder by its own number: local and global layers have other shapes."""
    table = json.loads((GOLDEN / "gemma" / "keys.json").read_text())["gemma4_packed"]
    config = release("ltx2_5_22b").text
    ids = jnp.zeros((1, 4), jnp.int32)
    shapes, _ = abstract_params(Gemma4(config), ids, ids)
    found, expected = {}, {}
    for name in gemma4_names(config):
        leaf = shapes
        for key in name.path:
            leaf = leaf[key]
        shape = leaf.shape if name.layers is None else leaf.shape[1:]
        shape = list(shape if name.axes is None else (shape[i] for i in np.argsort(name.axes)))
        found |= dict.fromkeys(("model." + official for official in name.officials()), shape)
    for key, value in table.items():
        if key.startswith("model."):
            for shape, layers in value if "{i}" in key else [(value, [0])]:
                layers = range(48) if layers == "0..47" else layers
                expected |= {key.replace("{i}", str(i)): shape for i in layers}
    assert found == expected
    assert len(found) == 2 + 40 * 14 + 8 * 13


def test_duration_head(mesh):
    table = json.loads((GOLDEN / "dit" / "keys_text.json").read_text())["duration_head_2.5"]["keys"]
    config = DurationConfig()
    shapes, _ = abstract_params(DurationHead(config), np.zeros((1, 2, 4096)), np.zeros((1, 2, 2048)))
    found, tensors = official_shapes(duration_names(config), shapes)
    assert {DURATION_PREFIX + key: shape for key, shape in found.items()} == {k: v[0] for k, v in table.items()}
    assert tensors == 15


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Gemma3(Gemma3Config(8, 8, 2, 2, 1, 4, vocab_size=5, head_dim=4)), gemma3_names),
        (Gemma4(Gemma4Config(8, 8, 12, 2, 1, 4, vocab_size=5, head_dim=4, global_head_dim=8)), gemma4_names),
    ],
)
def test_official_tensors_round_trip(mesh, model, names):
    ids = jnp.zeros((1, 4), jnp.int32)
    params = jax.jit(lambda key: init_params(model, key, ids, ids))(jax.random.key(0))
    tensors = to_official(names(model.config), params, GEMMA_PREFIX)
    jax.tree.map(np.testing.assert_array_equal, to_tree(names(model.config), tensors, GEMMA_PREFIX), params)
