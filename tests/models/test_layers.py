"""Linear layers: weight gradients keep the parameters' type where the computation is narrower."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.models.layers import Linear, init_params, matmul
from ltx_jax.parallel.flops import jaxpr_flops
from ltx_jax.parallel.mesh import MeshConfig, make_mesh

KEYS = jax.random.split(jax.random.key(0), 3)


def gradients(dtype, x, weight):
    layer = Linear(6, ("embed", "mlp"), True, dtype)
    params = jax.tree.map(lambda p: p + 0.1, init_params(layer, KEYS[0], x))
    loss = lambda params, x: jnp.sum(layer.apply({"params": params}, x).astype(jnp.float32) * weight)
    return jax.grad(loss, argnums=(0, 1))(params, x)


def test_weight_gradients_of_a_bfloat16_computation_are_float32_sums():
    x = jax.random.normal(KEYS[1], (2, 1000, 8)).astype(jnp.bfloat16)
    weight = jax.random.normal(KEYS[2], (2, 1000, 6)).astype(jnp.bfloat16).astype(jnp.float32)
    (ours, of_x), (exact, _) = gradients(jnp.bfloat16, x, weight), gradients(jnp.float32, x, weight)
    assert of_x.dtype == jnp.bfloat16
    for name, wanted in exact.items():  # the inputs are exact in bfloat16: only a rounded sum would differ
        assert ours[name].dtype == jnp.float32
        np.testing.assert_allclose(ours[name], wanted, rtol=1e-5, atol=1e-4)


def test_a_float32_layer_computes_as_ever():
    x = jax.random.normal(KEYS[1], (3, 5, 8))
    layer = Linear(6, ("embed", "mlp"))
    params = init_params(layer, KEYS[0], x)
    text = jax.jit(lambda p, x: layer.apply({"params": p}, x)).lower(params, x).as_text()
    assert "sharding" not in text and "convert" not in text


def test_the_incoming_gradient_is_never_transposed():
    """A CPU's compiler would compute it twice, the second time in transposed order."""
    x, kernel = jnp.zeros((3, 5, 8)), jnp.zeros((8, 6))
    rows = jax.make_jaxpr(jax.grad(lambda x, k: jnp.sum(jnp.sin(matmul(x, k))), argnums=(0, 1)))(x, kernel)
    products = [e for e in rows.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert [e.outvars[0].aval.shape for e in products].count((8, 6)) == 1
    assert all(v.aval.shape != (6, 8) for e in products for v in e.outvars)


@pytest.mark.parametrize("shape", [(8,), (1, 8), (2, 3, 8), (3, 5, 8)], ids=str)
def test_gradients_are_the_usual_ones_and_few_rows_transpose_no_kernel(shape):
    x, kernel = jax.random.normal(KEYS[1], shape), jax.random.normal(KEYS[2], (8, 6))
    both = lambda product: jax.grad(lambda x, k: jnp.sum(jnp.sin(product(x, k))), argnums=(0, 1))
    for ours, wanted in zip(both(matmul)(x, kernel), both(jnp.matmul)(x, kernel), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)
    turned = str(jax.make_jaxpr(both(matmul))(x, kernel)).count("f32[6,8] = transpose")
    assert turned == (x.size // 8 > 8)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["plain", "remat"])
def test_a_kernel_that_is_not_trained_costs_no_product(wrap):
    x, kernel = jax.random.normal(KEYS[1], (3, 5, 8)), jax.random.normal(KEYS[2], (2, 8, 8))
    layers = lambda x, kernel: jnp.sum(jax.lax.scan(wrap(lambda x, k: (matmul(jnp.sin(x), k), None)), x, kernel)[0])
    usual = lambda x, kernel: jnp.sum(jax.lax.scan(lambda x, k: (jnp.sin(x) @ k, None), x, kernel)[0])
    for ours, wanted in zip(*(jax.grad(f, (0, 1))(x, kernel) for f in (layers, usual)), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)
    frozen, both = (jaxpr_flops(jax.make_jaxpr(jax.grad(layers, a))(x, kernel)) for a in (0, (0, 1)))
    assert both - frozen == 2 * 2 * x.size * 8


@pytest.mark.parametrize("sizes", [(1, 4, 1, 2), (2, 2, 2, 1)], ids=str)
def test_gradients_are_summed_over_the_devices_in_float32(sizes):
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[:8])
    x = jax.random.normal(KEYS[1], (8, 16, 8)).astype(jnp.bfloat16)
    weight = jnp.ones((8, 16, 6))
    expected = gradients(jnp.bfloat16, x, weight)[0]
    with jax.set_mesh(mesh):
        batch = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
        compiled = jax.jit(gradients, static_argnums=0, in_shardings=batch)
        got = compiled(jnp.bfloat16, x, weight)[0]
        text = compiled.lower(jnp.bfloat16, x, weight).compile().as_text()
    for name, wanted in expected.items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-5, atol=1e-4)
    reductions = [line for line in text.splitlines() if " all-reduce(" in line or " reduce-scatter(" in line]
    assert any("f32[" in line for line in reductions)
