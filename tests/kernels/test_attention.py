"""Every attention implementation against a float64 reference: lengths, masks, extreme logits, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.blocked import blocked_attention
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.spec import AttentionSpec, Mask

SHAPES = [(1, 7, 7, 1, 4), (2, 33, 19, 3, 8), (1, 64, 130, 2, 16)]


def exact(q, k, v, seen, bias, scale):
    """The definition in float64 NumPy."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("btnk,bsnk->bnts", q, k) * scale + (0 if bias is None else np.asarray(bias, np.float64))
    scores = np.where(seen, scores, -np.inf)
    largest = np.max(scores, axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0))
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bnts,bsnk->btnk", weights / np.where(total > 0, total, 1), v)


def inputs(shape, seed=0, scale=1.0):
    b, t, s, n, k = shape
    rng = np.random.default_rng(seed)
    draw = lambda length: jnp.asarray(rng.normal(size=(b, length, n, k)) * scale, jnp.float32)
    return draw(t), draw(s), draw(s), rng


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["none", "length", "keep", "bias", "causal", "window"])
@pytest.mark.parametrize("implementation", [reference_attention, lambda *a: blocked_attention(*a, block=16)])
def test_matches_float64(shape, kind, implementation):
    b, t, s, _, k = shape
    q, keys, v, rng = inputs(shape)
    mask, spec, seen = Mask(), AttentionSpec(), np.ones((b, 1, t, s), bool)
    if kind == "length":
        length = rng.integers(0, s + 1, b)
        mask, seen = (
            Mask(length=jnp.asarray(length)),
            np.broadcast_to(np.arange(s) < length[:, None, None, None], seen.shape),
        )
    if kind == "keep":
        keep = rng.random((b, s)) < 0.5
        mask, seen = Mask(keep=jnp.asarray(keep)), np.broadcast_to(keep[:, None, None], seen.shape)
    if kind == "bias":
        mask = Mask(bias=jnp.asarray(rng.normal(size=(b, 1, t, s)) * 5, jnp.float32))
    if kind in ("causal", "window"):
        window = 3 if kind == "window" else None
        spec = AttentionSpec(causal=True, window=window)
        ahead = np.arange(t)[:, None] - np.arange(s)[None]
        seen = np.broadcast_to((ahead >= 0) & (ahead < (window or t + s)), seen.shape)
    ours = implementation(q, keys, v, mask, spec)
    np.testing.assert_allclose(ours, exact(q, keys, v, seen, mask.bias, k**-0.5), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_blocked_gradients_match_the_reference(shape):
    q, k, v, rng = inputs(shape)
    mask = Mask(keep=jnp.asarray(rng.random((shape[0], shape[2])) < 0.7))
    weight = jnp.asarray(rng.normal(size=q.shape), jnp.float32)
    gradient = lambda f: jax.jit(jax.grad(lambda *a: jnp.sum(f(*a) * weight), argnums=(0, 1, 2)))(q, k, v)
    ours = gradient(lambda *a: blocked_attention(*a, mask, AttentionSpec(), block=16))
    theirs = gradient(lambda *a: reference_attention(*a, mask, AttentionSpec()))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
def test_rows_without_keys_give_zeros_and_finite_gradients(implementation):
    q, k, v, _ = inputs((2, 5, 6, 2, 4))
    mask = Mask(length=jnp.array([0, 6]))
    spec = AttentionSpec(implementation=implementation)
    out, gradients = jax.value_and_grad(lambda *a: jnp.sum(attention(*a, mask, spec)[0]), argnums=(0, 1, 2))(q, k, v)
    assert out == 0
    assert all(bool(jnp.all(g == 0)) for g in gradients)


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
def test_extreme_logits_stay_finite(implementation):
    q, k, v, _ = inputs((1, 9, 9, 1, 4), scale=1e4)
    out = attention(q, k, v, Mask(), AttentionSpec(implementation=implementation))
    assert bool(jnp.all(jnp.isfinite(out)))
    assert float(jnp.max(jnp.abs(out))) <= float(jnp.max(jnp.abs(v))) * 1.001


def test_grouped_heads_are_repeated_in_runs():
    q, k, v, _ = inputs((1, 5, 5, 4, 4))
    grouped = attention(q, k[:, :, :2], v[:, :, :2])
    repeated = attention(q, jnp.repeat(k[:, :, :2], 2, axis=2), jnp.repeat(v[:, :, :2], 2, axis=2))
    np.testing.assert_array_equal(grouped, repeated)
