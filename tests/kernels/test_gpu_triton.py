"""The Triton attention kernels in interpret mode against the definition in float64, with gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import check as against_exact
from exact import check_parts_merge, exact, exact_gradients, inputs

from ltx_jax.kernels.gpu_triton import (
    triton_attention,
    triton_backward,
    unsupported,
)
from ltx_jax.kernels.gpu_triton_tiles import Blocks, TritonTile, triton_candidates, triton_tile
from ltx_jax.kernels.spec import AttentionSpec, Mask

SMALL = TritonTile(Blocks(32, 64), Blocks(16, 32), Blocks(64, 16))
statistics = functools.partial(triton_attention, tile=SMALL, interpret=True)


def check(shape, mask=Mask(), spec=AttentionSpec(), dtype=jnp.float32, tolerance=2e-5):
    """Output, statistics and gradients of one call."""
    against_exact(statistics, shape, mask, spec, dtype, tolerance)


@pytest.mark.parametrize("shape", [(2, 64, 128, 2, 32), (2, 149, 300, 2, 64), (1, 300, 61, 1, 128), (1, 1, 1, 1, 16)])
def test_lengths(shape):
    check(shape)


def test_random_lengths():
    rng = np.random.default_rng(5)
    for _ in range(3):
        check((1, int(rng.integers(1, 200)), int(rng.integers(1, 200)), 2, 16))


def test_key_lengths_and_masks():
    b, _, s, _, _ = shape = (4, 70, 150, 1, 64)
    rng = np.random.default_rng(0)
    length = jnp.asarray([37, 0, s, 128], jnp.int32)  # the second sample's rows see nothing
    check(shape, Mask(length=length))
    check(shape, Mask(length=length, keep=jnp.asarray(rng.random((b, s)) < 0.4)))


@pytest.mark.parametrize("which", [(1, 2, 1), (2, 1, 150)])
def test_bias(which):
    shape = (2, 150, 300, 2, 32)
    rng = np.random.default_rng(1)
    bias = jnp.asarray(rng.normal(size=(*which, shape[2])) * 4, jnp.float32)
    check(shape, Mask(bias=bias.at[..., 7].set(-jnp.inf), length=jnp.asarray([300, 131])))


def test_a_bias_may_hide_every_key():
    check((1, 40, 70, 1, 16), Mask(bias=jnp.full((1, 1, 40, 70), -1e30).at[:, :, 20:].set(0.0)))


@pytest.mark.parametrize(("window", "lengths"), [(None, (150, 250)), (50, (250, 90)), (50, (192, 192)), (3, (64, 64))])
def test_causal_and_window(window, lengths):
    check((1, *lengths, 1, 32), spec=AttentionSpec(causal=True, window=window, scale=0.3))


@pytest.mark.parametrize("scale", [-0.2, 0.0, 2.0])
def test_scales(scale):
    q, k, v, rng = inputs((1, 40, 50, 2, 16))
    weight = jnp.asarray(rng.normal(size=q.shape), jnp.float32)
    call = lambda *a: statistics(*a, Mask(length=jnp.asarray([33])), AttentionSpec(scale=scale))[0]
    plain = lambda q, *a: statistics(q * scale, *a, Mask(length=jnp.asarray([33])), AttentionSpec(scale=1.0))[0]
    gradient = lambda f: jax.value_and_grad(lambda *a: jnp.sum(f(*a) * weight), argnums=(0, 1, 2))(q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient(call), gradient(plain))


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 2e-2), (jnp.float16, 3e-3)])
def test_16_bits(dtype, tolerance):
    check((1, 100, 140, 2, 64), dtype=dtype, tolerance=tolerance)


def test_padding_may_hold_anything():
    q, k, v, rng = inputs((2, 130, 200, 1, 32))
    keep = rng.random((2, 200)) < 0.5
    mask = Mask(length=jnp.asarray([150, 0]), keep=jnp.asarray(keep))
    hidden = ~(keep & (np.arange(200) < np.array([150, 0])[:, None]))[:, :, None, None]
    call = lambda q, k, v: jnp.sum(statistics(q, k, v, mask, AttentionSpec())[0] ** 2)
    call = jax.jit(jax.value_and_grad(call, argnums=(0, 1, 2)))
    clean, dirty = call(q, k, v), call(q, jnp.where(hidden, jnp.nan, k), jnp.where(hidden, jnp.nan, v))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert all(bool(jnp.all(g[1] == 0)) for g in clean[1])  # the sample without keys


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_stay_finite(sign):
    q, k, v, _ = inputs((1, 130, 140, 1, 32), scale=1e4)
    q, k = (q, k) if sign > 0 else (jnp.abs(q), -jnp.abs(k))  # every logit far below zero
    mask = Mask(length=jnp.asarray([133]))
    out, pull = jax.jit(lambda *a: jax.vjp(lambda *a: statistics(*a, mask, AttentionSpec())[0], *a))(q, k, v)
    np.testing.assert_allclose(out, exact(q, k, v, mask, AttentionSpec())[0], rtol=1e-4)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.jit(pull)(out))


def test_parts_of_the_keys_merge_to_the_whole():
    check_parts_merge(lambda *a: statistics(*a, Mask(), AttentionSpec()), 32)


def test_the_backward_half_takes_statistics_from_elsewhere():
    q, k, v, rng = inputs((1, 60, 90, 2, 16))
    d_out = jnp.asarray(rng.normal(size=q.shape), jnp.float32)
    mask, spec = Mask(), AttentionSpec(scale=-0.3)
    out, lse = exact(q, k, v, mask, spec)
    delta = jnp.asarray(np.einsum("btnk,btnk->bnt", np.asarray(d_out), out), jnp.float32)
    lse = jnp.asarray(lse, jnp.float32)
    parts = [
        triton_backward(q, k[:, s], v[:, s], mask, spec, lse, delta, d_out, tile=SMALL, interpret=True)
        for s in (slice(0, 50), slice(50, 90))
    ]
    (dq, dk, dv), (dq2, dk2, dv2) = parts
    ours = (dq + dq2, jnp.concatenate([dk, dk2], 1), jnp.concatenate([dv, dv2], 1))
    for a, b in zip(ours, exact_gradients(q, k, v, mask, spec, d_out, 0 * lse), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_what_does_not_fit_is_named():
    q, k, v, _ = inputs((1, 8, 8, 4, 48))
    with pytest.raises(NotImplementedError, match="4 heads of width 48"):
        triton_attention(q, k, v, Mask(), AttentionSpec())
    assert unsupported(*(x[..., :32] for x in (q, k, v))) is None


def test_every_card_has_a_tile_and_candidates():
    for kind in ("NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 4090", "something new"):
        for width in (16, 32, 64, 128):
            tile = triton_tile(kind, width, jnp.bfloat16)
            assert all(getattr(c, n) for c in triton_candidates(kind, width, jnp.bfloat16) for n in ("forward",))
            assert tile != triton_tile(kind, width, jnp.float32)
