"""Clip, decay and schedules at the points where their formulas can be read off."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ltx_jax.bundle import abstract_parts, make_networks
from ltx_jax.config import from_mapping
from ltx_jax.errors import UserError
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.releases import release
from ltx_jax.training.optimizer import (
    OptimizerConfig,
    ScheduleConfig,
    clip_by_global_norm,
    learning_rate,
    make_optimizer,
    stacked_kernels,
)


def rates(steps=40, total=40, lr=1.0, **schedule):
    config = OptimizerConfig(learning_rate=lr, steps=total, schedule=ScheduleConfig(**schedule))
    return np.asarray(learning_rate(config, np.arange(steps + 1)))


def test_clip_leaves_small_gradients_and_bounds_large_ones():
    clip = clip_by_global_norm(1.0)
    for scale, expected in [(0.1, 0.5), (2.0, 1.0)]:
        updates, _ = clip.update({"a": jnp.full(9, scale), "b": jnp.full(16, scale)}, clip.init({}))
        assert np.isclose(optax.global_norm(updates), expected, rtol=1e-5)
    assert clip_by_global_norm(0).update({"a": jnp.ones(3)}, optax.EmptyState())[0]["a"].tolist() == [1, 1, 1]


def test_decay_is_decoupled_from_the_gradient():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, schedule=ScheduleConfig("constant")), {"w": (None,)})
    params = {"w": jnp.array([2.0, -4.0])}
    updates, _ = optimizer.update({"w": jnp.zeros(2)}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1 * 0.01 * params["w"], rtol=1e-6)


def test_first_update_has_the_size_of_the_learning_rate():
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.0, schedule=ScheduleConfig("constant"))
    optimizer = make_optimizer(config, {"w": (None,)})
    params = {"w": jnp.zeros(3)}
    updates, _ = optimizer.update({"w": jnp.array([0.1, -0.01, 0.3])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.1, 0.1, -0.1], rtol=1e-4)


def test_linear_reaches_its_end_and_stays():
    r = rates(steps=50, type="linear")
    assert r[0] == 1 and np.isclose(r[40], 0.1) and np.isclose(r[50], 0.1)


def test_warmup_rises_to_the_rate_then_falls_to_the_end():
    r = rates(steps=50, type="warmup_cosine", warmup_steps=10, eta_min=0.05)
    np.testing.assert_allclose(r[:11], [*(np.arange(1, 11) / 10), 1.0], rtol=1e-6)
    assert np.all(np.diff(r[10:41]) < 0)
    np.testing.assert_allclose(r[40:], 0.05, rtol=1e-5)


def test_restarts_lengthen():
    r = rates(type="cosine_with_restarts", T_0=5, T_mult=2, eta_min=0.0)
    assert [i for i in range(1, 41) if r[i] > r[i - 1]] == [5, 15, 35]
    np.testing.assert_allclose(r[[0, 5, 15, 35]], 1, rtol=1e-6)


def test_step_and_polynomial():
    r = rates(type="step", step_size=10, gamma=0.5)
    np.testing.assert_allclose(r[[0, 9, 10, 39]], [1, 1, 0.5, 0.125])
    np.testing.assert_allclose(rates(type="polynomial", power=2.0)[[0, 20, 40]], [1, 0.25, 0])


def test_options_that_would_do_nothing_are_refused():
    with pytest.raises(UserError, match="no parameter 'power'"):
        ScheduleConfig(type="linear", power=2.0)
    with pytest.raises(UserError, match="no parameter 'warmup_steps'"):
        ScheduleConfig(type="cosine", warmup_steps=5)
    with pytest.raises(UserError, match="did you mean 'gamma'"):
        from_mapping(ScheduleConfig, {"type": "step", "gama": 0.1})
    with pytest.raises(UserError, match="longer than"):
        OptimizerConfig(steps=5, schedule=ScheduleConfig("warmup_cosine", warmup_steps=10))
    with pytest.raises(UserError, match="learning rate"):
        OptimizerConfig(learning_rate=0)


def test_kernels_of_stacked_layers_are_told_by_their_axes():
    """A convolution's kernel has three axes as well; tables and biases are stacked as well."""
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        _, axes = abstract_parts(make_networks(release("toy")), ("transformer", "text", "vocoder"))
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, stacked in jax.tree_util.tree_leaves_with_path(stacked_kernels(axes))
        if stacked
    }
    assert {f"transformer/blocks/{name}/kernel" for name in ("video/attn1/to_q", "cross/audio_to_video/to_k")} <= found
    assert all("/blocks/" in name or "/layers/" in name for name in found)
    assert not any(name.startswith("vocoder") for name in found)
    assert any(name.startswith("text") for name in found)


def descend(config, steps=60):
    """A badly scaled least-squares problem in a stacked kernel, minimised: the loss before and after."""
    target = jnp.asarray(np.random.default_rng(0).normal(size=(2, 128, 128)), jnp.float32)
    scale = jnp.logspace(-1, 1, 128)
    loss = lambda p: jnp.mean((scale * (p["blocks"]["kernel"] - target)) ** 2)
    optimizer = make_optimizer(config, {"blocks": {"kernel": ("layers", "embed", "mlp")}})
    params = {"blocks": {"kernel": jnp.zeros_like(target)}}

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return float(loss({"blocks": {"kernel": jnp.zeros_like(target)}})), float(loss(params)), state


@pytest.mark.parametrize("name, rate", [("adamw", 0.05), ("adafactor", 0.05), ("muon", 0.25)])
def test_every_optimizer_descends(name, rate):
    config = OptimizerConfig(name, learning_rate=rate, weight_decay=0.0, schedule=ScheduleConfig("constant"))
    before, after, _ = descend(config)
    assert after < 0.3 * before


def test_moments_in_bfloat16_are_stored_so_and_nearly_as_good():
    config = OptimizerConfig(learning_rate=0.05, b2=0.99, weight_decay=0.0, schedule=ScheduleConfig("constant"))
    small = dataclasses.replace(config, first_moment="bfloat16", second_moment="bfloat16")
    (_, wanted, _), (_, after, state) = descend(config), descend(small)
    assert abs(after - wanted) < 0.05 * wanted
    moments = [x for x in jax.tree.leaves(state) if x.ndim == 3]
    assert len(moments) == 2 and all(x.dtype == jnp.bfloat16 for x in moments)


def test_moments_that_cannot_be_stored_so_are_refused():
    with pytest.raises(UserError, match="rounded away"):
        OptimizerConfig(second_moment="bfloat16")
    with pytest.raises(UserError, match="no first_moment"):
        OptimizerConfig("adafactor", first_moment="bfloat16")
    with pytest.raises(UserError, match="Only adamw"):
        OptimizerConfig("muon", b2=0.9, second_moment="bfloat16")
    with pytest.raises(UserError, match="known: adamw"):
        OptimizerConfig("sgd")  # type: ignore[arg-type]


def test_muon_orthogonalises_a_convolution_over_all_its_taps():
    axes = {"conv": {"kernel": ("kernel", "kernel", "conv_in", "conv_out"), "bias": ("conv_out",)}}
    rng = np.random.default_rng(0)
    gradient = {"conv": {"kernel": jnp.asarray(1 + 0.5 * rng.normal(size=(3, 3, 4, 6))), "bias": jnp.ones(6)}}
    spread = {}
    for name in ("muon", "adamw"):
        config = OptimizerConfig(name, weight_decay=0.0, max_grad_norm=0.0, schedule=ScheduleConfig("constant"))
        optimizer = make_optimizer(config, axes)
        updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
        values = np.linalg.svd(np.asarray(updates["conv"]["kernel"]).reshape(-1, 6), compute_uv=False)
        spread[name] = values.max() / values.min()
    assert 4 * spread["muon"] < spread["adamw"]
