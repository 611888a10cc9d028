"""Attention and its gradients in float64 NumPy, and the check of a kernel against them."""

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.kernels.spec import AttentionSpec, Mask


def exact(q, k, v, mask, spec):
    """(output (B, T, N, K), log-sum-exp (B, N, T)) in float64 NumPy."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    t, s = q.shape[1], k.shape[1]
    seen = np.ones((q.shape[0], 1, t, s), bool)
    if mask.length is not None:
        seen &= np.arange(s) < np.asarray(mask.length)[:, None, None, None]
    if mask.keep is not None:
        seen &= np.asarray(mask.keep)[:, None, None]
    if spec.causal:
        ahead = np.arange(t)[:, None] - np.arange(s)
        seen &= (ahead >= 0) & (ahead < (spec.window or t + s))
    scores = np.einsum("btnk,bsnk->bnts", q, k) * (spec.scale or q.shape[-1] ** -0.5)
    scores = np.where(seen, scores if mask.bias is None else scores + np.asarray(mask.bias, np.float64), -np.inf)
    top = np.max(scores, axis=-1, keepdims=True, initial=-1e30)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    out = np.einsum("bnts,bsnk->btnk", weights / np.where(total > 0, total, 1), v)
    with np.errstate(divide="ignore"):
        return out, np.where(total > 0, np.log(total) + top, -1e30)[..., 0]


def exact_gradients(q, k, v, mask, spec, d_out, d_lse):
    """dq, dk, dv of sum(out d_out) + sum(lse d_lse), in float64 NumPy, by the softmax's own derivative."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    scale = spec.scale or q.shape[-1] ** -0.5
    out, _ = exact(q, k, v, mask, spec)
    eye = np.broadcast_to(np.eye(k.shape[1])[None, :, None], (k.shape[0], k.shape[1], q.shape[2], k.shape[1]))
    p = exact(q, k, eye, mask, spec)[0].transpose(0, 2, 1, 3)  # (B, N, T, S)
    dp = np.einsum("btnk,bsnk->bnts", d_out, v)
    delta = np.einsum("btnk,btnk->bnt", d_out, out) - np.asarray(d_lse, np.float64)
    ds = p * (dp - delta[..., None]) * scale
    return (
        np.einsum("bnts,bsnk->btnk", ds, k),
        np.einsum("bnts,btnk->bsnk", ds, q),
        np.einsum("bnts,btnk->bsnk", p, d_out),
    )


def inputs(shape, seed=0, scale=1.0, dtype=jnp.float32):
    b, t, s, n, k = shape
    rng = np.random.default_rng(seed)
    draw = lambda length: jnp.asarray(rng.normal(size=(b, length, n, k)) * scale, dtype)
    return draw(t), draw(s), draw(s), rng


def check(call, shape, mask=Mask(), spec=AttentionSpec(), dtype=jnp.float32, tolerance=2e-5):
    """Output, statistics and gradients of call(q, k, v, mask, spec) -> (output, log-sum-exp)."""
    q, k, v, rng = inputs(shape, dtype=dtype)
    d_out = jnp.asarray(rng.normal(size=q.shape), dtype)
    d_lse = jnp.asarray(rng.normal(size=(shape[0], shape[3], shape[1])), jnp.float32)
    (out, lse), pull = jax.jit(lambda *a: jax.vjp(lambda *a: call(*a, mask, spec), *a))(q, k, v)
    expected = exact(q, k, v, mask, spec)
    np.testing.assert_allclose(np.asarray(out, np.float64), expected[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(lse, expected[1], rtol=tolerance, atol=tolerance)
    gradients = jax.jit(pull)((out.dtype.type(1) * d_out, d_lse))
    for ours, theirs in zip(gradients, exact_gradients(q, k, v, mask, spec, d_out, d_lse), strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=10 * tolerance, atol=10 * tolerance)


def check_parts_merge(call, width):
    """Parts of the keys, each by call(q, k, v) -> (output, log-sum-exp), give the whole result and its gradients."""
    q, k, v, rng = inputs((1, 100, 200, 1, width))
    weight = jnp.asarray(rng.normal(size=q.shape), jnp.float32)

    def merged(q, k, v):
        parts = [call(q, k[:, a:b], v[:, a:b]) for a, b in ((0, 130), (130, 200))]
        shares = jax.nn.softmax(jnp.stack([lse for _, lse in parts]), axis=0)  # (parts, B, N, T)
        return sum(out * share.transpose(0, 2, 1)[..., None] for (out, _), share in zip(parts, shares, strict=True))

    gradient = lambda f: jax.jit(jax.value_and_grad(lambda *a: jnp.sum(f(*a) * weight), argnums=(0, 1, 2)))(q, k, v)
    close = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, gradient(merged), gradient(lambda *a: call(*a)[0]))
