import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from ltx_jax.models.dit.config import DiTConfig
from ltx_jax.models.dit.transformer import DiT, example_inputs
from ltx_jax.models.layers import abstract_params
from ltx_jax.names import to_official, to_tree
from ltx_jax.names.dit import dit_names

RELEASES = json.loads((Path(__file__).parents[1] / "golden/dit/keys.json").read_text())["releases"]
PARAMETERS = {"2.0": 18_876_174_592, "2.3": 18_988_838_144, "2.5": 18_987_859_200}

pytestmark = pytest.mark.usefixtures("mesh")


def full_size(release):
    config = DiTConfig.from_official(RELEASES[release]["config_transformer"])
    return config, abstract_params(DiT(config), *example_inputs(config))


@pytest.mark.parametrize("release", RELEASES)
def test_names_and_shapes_are_those_of_the_published_files(release):
    config, (shapes, _) = full_size(release)
    ours = {}
    for name in dit_names(config):
        shape = shapes
        for key in name.path:
            shape = shape[key]
        shape = shape.shape if name.layers is None else shape.shape[1:]
        inverse = range(len(shape)) if name.axes is None else np.argsort(name.axes)
        ours[name.official] = [[shape[i] for i in inverse], name.layers or 1]
    assert ours == RELEASES[release]["keys"]


@pytest.mark.parametrize("release", RELEASES)
def test_parameter_counts(release):
    _, (shapes, axes) = full_size(release)
    assert sum(math.prod(s.shape) for s in jax.tree.leaves(shapes)) == PARAMETERS[release]
    is_names = lambda x: isinstance(x, tuple)
    assert jax.tree.structure(jax.tree.map(lambda a: 0, axes, is_leaf=is_names)) == jax.tree.structure(shapes)


@pytest.mark.parametrize("model_type", ["av", "video", "audio"])
@pytest.mark.parametrize("release", RELEASES)
def test_every_parameter_has_one_name_and_the_way_back_is_exact(release, model_type):
    small = {
        "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16,
        "audio_num_attention_heads": 2, "audio_attention_head_dim": 4, "audio_cross_attention_dim": 8, "in_channels": 5,
    }  # fmt: skip
    config = DiTConfig.from_official({**RELEASES[release]["config_transformer"], **small}, model_type)
    shapes, _ = abstract_params(DiT(config), *example_inputs(config))
    names, rng = dit_names(config), np.random.default_rng(0)
    paths = [tuple(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    assert sorted(n.path for n in names) == sorted(paths)
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(s.dtype), shapes)
    back = to_tree(names, to_official(names, params, "model."), "model.")
    jax.tree.map(np.testing.assert_array_equal, back, params)
