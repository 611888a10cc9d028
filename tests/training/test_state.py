"""The state: moving average, shardings without devices, and the first steps of AdamW inside the program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.training.config import StageConfig
from ltx_jax.training.optimizer import OptimizerConfig, make_optimizer
from ltx_jax.training.state import abstract_state, initial_state, update_ema

EMBED = ("fsdp", "context")  # the mesh axes of `embed`


def test_moving_average_follows_its_formula():
    params = [jnp.float32(v) for v in (1.0, 3.0, -2.0)]
    ema, expected = {"w": jnp.float32(0)}, 0.0
    for step, value in enumerate(params):
        ema = update_ema(ema, {"w": value}, jnp.int32(step), 0.15)
        d = min(0.15, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * float(value)
    np.testing.assert_allclose(ema["w"], expected, rtol=1e-6)


def test_state_is_sharded_as_its_parameters():
    mesh = make_mesh(MeshConfig(2, 2, 1, 2), jax.devices()[:8])
    shapes = {"kernel": jax.ShapeDtypeStruct((8, 6), jnp.float32), "bias": jax.ShapeDtypeStruct((6,), jnp.float32)}
    axes = {"kernel": ("embed", "mlp"), "bias": ("mlp",)}
    state = abstract_state(shapes, axes, make_optimizer(OptimizerConfig(), axes), StageConfig(), mesh)
    for part in (state.params, state.ema):
        assert part["kernel"].sharding.spec == PartitionSpec(EMBED, "tensor")
    kernels = [x for x in jax.tree.leaves(state.opt_state) if x.shape == (8, 6)]
    assert len(kernels) == 2 and all(x.sharding == state.params["kernel"].sharding for x in kernels)
    assert state.step.sharding.is_fully_replicated


def test_no_average_without_decay():
    optimizer = make_optimizer(OptimizerConfig(), {"w": (None,)})
    state = initial_state({"w": jnp.ones(3)}, optimizer, StageConfig(ema_decay=0))
    assert state.ema is None and state.weights is state.params


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_every_optimizers_state_follows_its_parameters(name):
    mesh = make_mesh(MeshConfig(1, 4, 1, 2), jax.devices()[:8])
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    shapes = {"blocks": {"kernel": struct(3, 256, 128), "bias": struct(3, 128)}, "out": {"kernel": struct(128, 256)}}
    axes = {
        "blocks": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}, "out": {"kernel": ("mlp", "embed")}
    }  # fmt: skip
    state = abstract_state(shapes, axes, make_optimizer(OptimizerConfig(name), axes), StageConfig(), mesh)
    found = {x.shape: x.sharding.spec for x in jax.tree.leaves(state.opt_state) if x.ndim > 1 or x.size > 1}
    if name == "adafactor":  # row and column sums of the kernels, the bias whole
        assert found[3, 256] == PartitionSpec(None, EMBED) and found[3, 128] == PartitionSpec(None, "tensor")
        assert found[128,] == PartitionSpec("tensor") and found[256,] == PartitionSpec(EMBED)
        assert (3, 256, 128) not in found
    else:
        assert found[3, 256, 128] == PartitionSpec(None, EMBED, "tensor")
        assert found[128, 256] == PartitionSpec("tensor", EMBED) and found[3, 128] == PartitionSpec(None, "tensor")
