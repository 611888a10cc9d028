"""The front door on CUDA meshes takes the kernels, forward and backward, alone and over `context`; cuDNN by name."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import inputs

from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.gpu import cudnn_attention, gpu_attention, gpu_backward
from ltx_jax.kernels.local import Kernel
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.planning.topology import topology

CUDA = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec("jax_plugins.xla_cuda12") is None,
    reason="the CUDA compiler is not installed (extra `plan`)",
)


def gradient_program(card, sizes=MeshConfig(), keys="tokens_replicated"):
    """The HLO of attention's output and gradients on a described mesh, as the CUDA compiler leaves it."""
    spec = AttentionSpec(key_tokens=keys)
    with jax.set_mesh(make_mesh(sizes, topology(card).devices)):
        x = jax.ShapeDtypeStruct((2, 1024, 4, 64), jnp.bfloat16)
        loss = lambda q, k, v: jnp.sum(attention(q, k, v, spec=spec).astype(jnp.float32))
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(x, x, x).compile().as_text()


@CUDA
@pytest.mark.parametrize("card", ["a100:1", "rtx4090"])
def test_a_cuda_mesh_takes_the_triton_kernels(card):
    text = gradient_program(card)
    for part in ("forward", "backward_keys", "backward_queries"):
        assert f"triton_attention_{part}" in text


@CUDA
def test_a_hopper_mesh_takes_the_hopper_kernels():
    text = gradient_program("h100:1")
    assert "mosaic_gpu" in text and "triton_attention" not in text


@CUDA
@pytest.mark.slow
@pytest.mark.parametrize("sizes", [MeshConfig(1, 1, 2, 1), MeshConfig(1, 1, 1, 2)])
def test_several_cards(sizes):
    assert "triton_attention_forward" in gradient_program("a100:2", sizes, keys="tokens")


def test_a_kernel_of_the_gpu_serves_the_forms_over_context():
    q, k, v, rng = inputs((1, 40, 50, 2, 16))
    kernel, mask = Kernel("gpu", AttentionSpec(), device_kind="NVIDIA A100-SXM4-80GB", interpret=True), Mask()
    out, lse = kernel.forward(q, k, v, mask)
    d_out = jnp.asarray(rng.normal(size=q.shape), jnp.float32)
    expected, pull = jax.vjp(lambda *a: reference_attention(*a, mask, AttentionSpec()), q, k, v)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    delta = jnp.sum(d_out * out, axis=-1).transpose(0, 2, 1)
    for a, b in zip(kernel.backward(q, k, v, mask, lse, delta, d_out), pull(d_out), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    ours = functools.partial(gpu_attention, mask=mask, spec=AttentionSpec(), interpret=True)
    np.testing.assert_array_equal(ours(q, k, v)[1], lse)
    assert gpu_backward(q, k, v, mask, AttentionSpec(), lse, delta, d_out, interpret=True)[0].shape == q.shape


@CUDA
def test_cudnn_lowers_for_a_card():
    with jax.set_mesh(make_mesh(MeshConfig(), topology("a100:1").devices)):
        x = jax.ShapeDtypeStruct((2, 1024, 4, 64), jnp.bfloat16)
        mask = Mask(length=jax.ShapeDtypeStruct((2,), jnp.int32))
        call = lambda q, k, v, mask: cudnn_attention(q, k, v, mask, AttentionSpec())
        try:
            text = jax.jit(call).lower(x, x, x, mask).as_text()
        except RuntimeError as error:  # JAX asks the installed cuDNN for its version while it lowers
            pytest.skip(str(error))
    assert "__cudnn" in text
