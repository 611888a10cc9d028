"""The step: a batch in parts gives the gradients of the whole, and refused steps change nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import batch_like, place
from ltx_jax.training.config import StageConfig
from ltx_jax.training.guard import GuardConfig
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer
from ltx_jax.training.state import initial_state
from ltx_jax.training.step import make_train_program, sample_keys

CONFIG = StageConfig(
    steps=10, batch_size=8, optimizer=OptimizerConfig(learning_rate=0.1, schedule=ScheduleConfig("constant")),
    guard=GuardConfig(max_skipped=3, spike=5.0, warmup=2),
)  # fmt: skip
STRUCT = jax.ShapeDtypeStruct
SHAPES = {"a": {"kernel": STRUCT((6, 4), jnp.float32)}, "b": {"bias": STRUCT((4,), jnp.float32)}}
AXES = {"a": {"kernel": ("embed", "mlp")}, "b": {"bias": ("mlp",)}}


def objective(params, frozen, batch, at):
    keys = sample_keys(1, "noise", at, batch["x"].shape[0])
    noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
    error = batch["x"] @ params["a"]["kernel"] + params["b"]["bias"] - noise
    kept = batch["x"][:, 0] > 0
    return jnp.mean(error**2), {"mean": jnp.mean(batch["x"]), "some": jnp.sum(batch["x"][:, 0] * kept) / jnp.sum(kept)}


def make(config, sizes=(1, 1, 1, 1)):
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    batch = batch_like({"x": jax.ShapeDtypeStruct((8, 6), jnp.float32)}, mesh)
    program = make_train_program(objective, config, SHAPES, AXES, {}, batch, mesh)
    params = jax.tree.map(lambda x: np.cos(np.arange(np.prod(x.shape))).reshape(x.shape).astype(np.float32), SHAPES)
    state = place(initial_state(params, make_optimizer(config.optimizer, AXES), config), program.arguments["state"])
    compiled = program.compile()
    return state, lambda state, x: compiled(state, {}, place({"x": x}, program.arguments["batch"]))


def numbers(seed, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(8, 6)).astype(np.float32)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2, 1, 1)], ids=str)
@pytest.mark.parametrize("count", [2, 8])
def test_a_batch_in_parts_gives_the_update_of_the_whole(count, sizes):
    state, step = make(CONFIG)
    whole, wanted = step(state, numbers(0))
    state, step = make(dataclasses.replace(CONFIG, accumulate=count), sizes)
    parts, metrics = step(state, numbers(0))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name in ("loss", "mean", "grad_norm", "grad_norm_a", "grad_norm_b"):
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5)
    assert np.isfinite(metrics["some"])  # parts without a sample above zero say nothing


def test_a_refused_step_leaves_the_state_as_it_was():
    state, step = make(CONFIG)
    for i in range(4):
        state, metrics = step(state, numbers(i))
        assert metrics["skipped"] == 0
    before = jax.device_get(state)
    for bad in (numbers(4) * np.inf, numbers(4, 100.0)):  # not finite; a hundred times the usual
        state, metrics = step(state, bad)
        assert metrics["skipped"] == 1
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True))
    state, metrics = step(state, numbers(5))
    assert metrics["skipped"] == 0 and int(state.step) == 5


def test_the_running_norm_is_the_mean_of_accepted_norms():
    state, step = make(CONFIG)
    norms = []
    for i in range(3):
        state, metrics = step(state, numbers(i))
        norms.append(float(metrics["grad_norm"]))
    np.testing.assert_allclose(state.norm.mean, np.mean(norms), rtol=1e-6)


def test_without_a_guard_nothing_is_refused():
    state, step = make(dataclasses.replace(CONFIG, guard=GuardConfig(max_skipped=0)))
    state, metrics = step(state, numbers(0) * np.inf)
    assert "skipped" not in metrics and not np.isfinite(metrics["loss"]) and state.norm is None


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="3 equal parts"):
        StageConfig(batch_size=8, accumulate=3)
    with pytest.raises(UserError, match="set dtype too"):
        StageConfig(gradient_dtype="bfloat16")
    with pytest.raises(UserError, match="above 1"):
        GuardConfig(spike=0.5)
    with pytest.raises(UserError, match="refuses steps"):
        GuardConfig(spike=2.0, max_skipped=0)


def test_model_flops_leave_out_what_parts_and_remat_repeat():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    batch = batch_like({"x": STRUCT((8, 6), jnp.float32)}, mesh)
    for config in (CONFIG, dataclasses.replace(CONFIG, accumulate=2)):
        program = make_train_program(objective, config, SHAPES, AXES, {}, batch, mesh)
        assert program.model_flops() == 3 * 2 * 8 * 6 * 4
