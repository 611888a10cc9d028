"""Attention on a mesh equals attention on one device; with a TPU mesh the front door takes the kernel."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.blocked import blocked_attention
from ltx_jax.kernels.local import Kernel
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.sharded import kernel_on_mesh, on_mesh
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.parallel.mesh import MeshConfig, make_mesh


@pytest.mark.parametrize("sizes", [(8, 1, 1, 1), (2, 2, 2, 1), (1, 2, 2, 2)])
@pytest.mark.parametrize("tokens", [12, 13])
@pytest.mark.parametrize("form", ["differentiated", "own gradient"])
def test_every_mesh_gives_the_one_device_result(sizes, tokens, form):
    rng = np.random.default_rng(0)
    draw = lambda length: jnp.asarray(rng.normal(size=(8, length, 2, 4)), jnp.float32)
    q, k, v = draw(tokens), draw(9), draw(9)
    mask = Mask(
        length=jnp.asarray(rng.integers(1, 10, 8)), bias=jnp.asarray(rng.normal(size=(1, 1, tokens, 9)), jnp.float32)
    )
    spec = AttentionSpec()
    mesh = make_mesh(MeshConfig(*sizes))
    with jax.set_mesh(mesh):
        here = jax.sharding.get_abstract_mesh()
        forms = {
            "differentiated": lambda *a: on_mesh(blocked_attention, *a, mask, spec, here),
            "own gradient": lambda *a: kernel_on_mesh(Kernel("blocked", spec), here, *a, mask),
        }
        run = forms[form]
        value, pull = jax.vjp(jax.jit(run), q, k, v)
        gradients = pull(value)
    expected, pull = jax.vjp(lambda *a: reference_attention(*a, mask, spec), q, k, v)
    for ours, theirs in zip((value, *gradients), (expected, *pull(expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra `plan`)")
@pytest.mark.parametrize("axes", [MeshConfig(1, 4, 1, 1), MeshConfig(1, 1, 2, 2)])
def test_a_tpu_mesh_takes_the_kernel(axes):
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v6e:2x2").devices
    with jax.set_mesh(make_mesh(axes, devices)):
        x = jax.ShapeDtypeStruct((4, 514, 4, 64), jnp.bfloat16)
        loss = lambda q, k, v: jnp.sum(attention(q, k, v).astype(jnp.float32))
        text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile().as_text()
    assert "tpu_custom_call" in text


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra `plan`)")
@pytest.mark.parametrize("axes", [MeshConfig(1, 4, 1, 1), MeshConfig(1, 1, 4, 1)])
def test_a_policy_that_keeps_the_result_attends_once(axes):
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v6e:2x2").devices
    spec, policy = AttentionSpec(key_tokens="tokens"), jax.checkpoint_policies.save_only_these_names("attended")
    call = jax.checkpoint(lambda *a: jnp.sum(attention(*a, spec=spec) ** 2), policy=policy, prevent_cse=False)
    with jax.set_mesh(make_mesh(axes, devices)):
        x = jax.ShapeDtypeStruct((4, 512, 4, 128), jnp.bfloat16)
        text = str(jax.make_jaxpr(jax.grad(call, (0, 1, 2)))(x, x, x))
    assert text.count("name=tpu_attention_forward") == 1
