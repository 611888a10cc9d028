"""Blocks of the blocked attention: equal, and padded by little; one head after the other as a CPU wants them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import check, check_parts_merge

from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.blocked import ALIGNED, block_size, blocked_attention, blocked_attention_with_statistics
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.parallel.mesh import MeshConfig, make_mesh

looped = functools.partial(blocked_attention_with_statistics, block=32, looped=True)
SHAPE = (2, 70, 50, 3, 8)


@pytest.mark.parametrize("most", [16, 128, 512])
def test_blocks_are_few_and_padded_by_less_than_a_vector_each(most):
    for length in range(1, 3000):
        size = block_size(length, most)
        count = -(-length // size)
        assert size <= most and count <= -(-length // most)
        assert count * size - length < count * ALIGNED


@pytest.mark.parametrize("queries, keys", [(33, 49), (40, 17), (16, 65)])
def test_lengths_that_nothing_divides_match_the_reference(queries, keys):
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, length, 3, 8)) for i, length in enumerate((queries, keys, keys))
    )
    mask = Mask(length=np.array([keys, keys - 9], np.int32))
    blocked = blocked_attention(q, k, v, mask, AttentionSpec(), block=32)
    np.testing.assert_allclose(blocked, reference_attention(q, k, v, mask, AttentionSpec()), atol=2e-6)


def masks(shape):
    b, t, s, n, _ = shape
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) * 3, jnp.float32)
    return {
        "none": Mask(),
        "length and keep": Mask(length=jnp.array([s, s - 21]), keep=jnp.asarray(rng.random((b, s)) < 0.6)),
        "bias of every head": Mask(bias=draw(b, n, t, s)),
        "bias of all": Mask(length=jnp.array([7, s]), bias=draw(1, 1, 1, s)),
    }


@pytest.mark.parametrize("kind", masks(SHAPE))
def test_one_head_after_the_other_matches_float64(kind):
    check(looped, SHAPE, masks(SHAPE)[kind])


@pytest.mark.parametrize("spec", [AttentionSpec(causal=True), AttentionSpec(causal=True, window=9, scale=0.3)])
def test_one_head_after_the_other_matches_float64_where_causal(spec):
    check(looped, (1, 70, 70, 2, 8), spec=spec)


def test_parts_of_the_keys_merge():
    check_parts_merge(lambda *a: looped(*a, Mask(), AttentionSpec()), 8)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_mesh_of_cpus_attends_head_by_head_and_once(devices):
    """Above the threshold the scores of one head alone exist; a policy that keeps results computes them once."""
    x = jax.ShapeDtypeStruct((2, 256, 4, 8), jnp.float32)
    policy = jax.checkpoint_policies.save_only_these_names("attended")
    call = jax.checkpoint(lambda *a: jnp.sum(attention(*a) ** 2), policy=policy, prevent_cse=False)
    with jax.set_mesh(make_mesh(MeshConfig(devices), jax.devices()[:devices])):
        text = str(jax.make_jaxpr(jax.grad(call, (0, 1, 2)))(x, x, x))
        small = str(jax.make_jaxpr(attention)(*(jax.ShapeDtypeStruct((2, 128, 4, 8), jnp.float32),) * 3))
    assert "f32[1,1,256,256]" in text and "4,256,256]" not in text
    assert text.count("= log ") == 1
    assert "f32[2,4,128,128]" in small
