"""Neighbourhood attention against full attention with the window as a mask: borders, blocks, gradients, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.kernels.neighbourhood import neighbourhood_attention
from ltx_jax.kernels.neighbourhood_blocked import window_starts

HEADS, WIDTH = 2, 4


def seen_pairs(grid, window):
    """(T H W, T H W) bool, cell by cell from the definition."""
    seen = np.ones((1, 1), bool)
    for n, w in zip(grid, window, strict=True):
        starts = [min(max(i - w // 2, 0), n - w) for i in range(n)]
        seen = np.kron(seen, np.array([[s <= key < s + w for key in range(n)] for s in starts]))
    return seen


def exact(q, k, v, d_out, window):
    """Output, dq, dk, dv in float64 NumPy, as (B, T, H, W, N, K)."""
    shape, seen = q.shape, seen_pairs(q.shape[1:4], window)
    q, k, v, d_out = (np.asarray(x, np.float64).reshape(shape[0], -1, *shape[4:]) for x in (q, k, v, d_out))
    scores = np.where(seen, np.einsum("btnk,bsnk->bnts", q, k) * shape[-1] ** -0.5, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    out = np.einsum("bnts,bsnk->btnk", p, v)
    dp = np.einsum("btnk,bsnk->bnts", d_out, v)
    ds = p * (dp - np.einsum("btnk,btnk->bnt", d_out, out)[..., None]) * shape[-1] ** -0.5
    products = (("bnts,bsnk->btnk", ds, k), ("bnts,btnk->bsnk", ds, q), ("bnts,btnk->bsnk", p, d_out))
    return [x.reshape(shape) for x in (out, *(np.einsum(*product) for product in products))]


def draw(grid, batch=2):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(batch, *grid, HEADS, WIDTH)), jnp.float32) for _ in range(4)]


@pytest.mark.parametrize(
    ("grid", "window", "block"),
    [
        ((4, 5, 7), (3, 3, 5), (4, 8, 8)),  # one block
        ((5, 6, 9), (3, 3, 5), (2, 4, 4)),  # blocks that do not divide the grid
        ((5, 5, 6), (2, 4, 3), (2, 2, 3)),  # even windows
        ((3, 4, 4), (3, 4, 4), (1, 2, 4)),  # windows as large as the grid
        ((1, 1, 8), (1, 1, 1), (1, 1, 4)),
    ],
)
def test_matches_float64(grid, window, block):
    q, k, v, d_out = draw(grid)
    value, pull = jax.vjp(jax.jit(lambda *a: neighbourhood_attention(*a, window, block=block)), q, k, v)
    for ours, theirs in zip((value, *pull(d_out)), exact(q, k, v, d_out, window), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("length", "window"), [(7, 3), (7, 4), (5, 5), (9, 1)])
def test_every_window_lies_in_the_axis_and_holds_its_query(length, window):
    start, query = window_starts(length, window), np.arange(length)
    assert start.min() >= 0 and start.max() + window <= length
    assert ((start <= query) & (query < start + window)).all()


def test_scores_of_the_whole_grid_never_exist():
    x = jax.ShapeDtypeStruct((1, 8, 64, 64, 1, 16), jnp.float32)
    step = lambda q, k, v: jax.grad(lambda *a: jnp.sum(neighbourhood_attention(*a, (3, 7, 7))), (0, 1, 2))(q, k, v)
    memory = jax.jit(step).lower(x, x, x).compile().memory_analysis()
    pairs = (8 * 64 * 64) ** 2 * 4
    assert memory.temp_size_in_bytes < pairs / 50


def test_what_does_not_fit_is_named():
    q, k, v, _ = draw((2, 4, 4))
    with pytest.raises(UserError, match=r"does not fit in a grid of \(2, 4, 4\)"):
        neighbourhood_attention(q, k, v, (3, 3, 3))
    with pytest.raises(UserError, match="same shape"):
        neighbourhood_attention(q, k[:, :, :3], v, (1, 3, 3))
