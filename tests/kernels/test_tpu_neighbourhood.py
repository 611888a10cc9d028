"""The TPU kernel of neighbourhood attention in interpret mode against the definition in float64, and its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from test_neighbourhood import exact

from ltx_jax.kernels.tpu_neighbourhood import tpu_neighbourhood_attention, unsupported
from ltx_jax.kernels.tpu_neighbourhood_cut import Cut, queries_for

RELEASED = [(3, 7, 7), (3, 5, 5), (11, 11, 11)]


def draw(grid, heads, width, dtype=jnp.float32, batch=1, scale=1.0):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(batch, *grid, heads, width)) for _ in range(4)]
    return [jnp.asarray(x * (scale if n < 2 else 1), dtype) for n, x in enumerate(arrays)]


def check(grid, window, heads=2, width=64, queries=128, dtype=jnp.float32, tolerance=2e-5, interpret=True, batch=1):
    """The output of one call."""
    q, k, v, d_out = draw(grid, heads, width, dtype, batch)
    settings = {"window": window, "scale": width**-0.5, "queries": queries, "interpret": interpret}
    call = functools.partial(tpu_neighbourhood_attention, **settings)
    out = jax.jit(call)(q, k, v)
    expected = exact(q, k, v, d_out, window)[0]
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("grid", "window", "heads", "width", "queries"),
    [
        ((7, 5, 10), (3, 3, 5), 4, 64, 128),  # lengths that divide nothing
        ((3, 4, 5), (3, 4, 5), 4, 32, 128),  # a window as large as the grid, fewer columns than a tile
        ((4, 3, 18), (2, 2, 3), 1, 128, 256),  # even windows, wide heads
        ((1, 2, 40), (1, 1, 1), 2, 64, 128),
    ],
)
def test_matches_float64(grid, window, heads, width, queries):
    check(grid, window, heads, width, queries)


def test_random_grids():
    rng = np.random.default_rng(3)
    for _ in range(2):
        grid = tuple(int(n) for n in rng.integers(1, (6, 6, 20)))
        check(grid, tuple(int(rng.integers(1, min(n, 5) + 1)) for n in grid), batch=2)


@pytest.mark.parametrize(("grid", "window"), [((9, 3, 20), (2, 3, 5)), ((3, 5, 40), (2, 3, 9))])
def test_in_the_model_of_a_tpu(grid, window):
    """Pallas's simulation of memories and transfers: copies arrive late and in any order, fresh memory is NaN."""
    check(grid, window, batch=2, interpret=pltpu.InterpretParams(uninitialized_memory="nan"))


def test_bfloat16():
    check((4, 4, 12), (3, 3, 5), dtype=jnp.bfloat16, tolerance=3e-2)


def test_extreme_logits_stay_exact():
    q, k, v, d_out = draw((5, 6, 9), 2, 64, scale=300.0)
    call = lambda *a: tpu_neighbourhood_attention(*a, (3, 3, 5), 1.0, interpret=True)
    out = jax.jit(call)(q, k, v)
    expected = exact(q * 8, k, v, d_out, (3, 3, 5))[0]  # `exact` scales by 1/8
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def check_gradients(grid, window, heads=2, width=64, dtype=jnp.float32, tolerance=2e-4, interpret=True, batch=1):
    q, k, v, d_out = draw(grid, heads, width, dtype, batch)
    settings = {"window": window, "scale": width**-0.5, "interpret": interpret}
    call = functools.partial(tpu_neighbourhood_attention, **settings)
    gradients = jax.jit(lambda q, k, v, d: jax.vjp(call, q, k, v)[1](d))(q, k, v, d_out)
    for ours, theirs in zip(gradients, exact(q, k, v, d_out, window)[1:], strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("grid", "window", "heads", "width"),
    [((7, 5, 18), (3, 3, 5), 2, 64), ((3, 4, 6), (3, 2, 5), 4, 32), ((5, 3, 9), (2, 3, 3), 1, 128)],
)
def test_gradients(grid, window, heads, width):
    check_gradients(grid, window, heads, width)


def test_gradients_in_the_model_of_a_tpu():
    interpret = pltpu.InterpretParams(uninitialized_memory="nan")
    check_gradients((6, 3, 40), (2, 3, 5), batch=2, interpret=interpret)


def test_gradients_in_bfloat16():
    check_gradients((4, 4, 12), (3, 3, 5), dtype=jnp.bfloat16, tolerance=1e-1)


@pytest.mark.parametrize("queries", [128, 256])
@pytest.mark.parametrize("window", RELEASED)
def test_released_windows_have_a_code(window, queries):
    cut = Cut.best((137, 128, 192), window, 64, queries)
    assert cut is not None and cut.queries == queries and cut.codes <= 64
    needed = np.prod(cut.grid) * np.prod(window)
    assert cut.scores / needed < {11: 4.8, 5: 21, 7: 13}[window[1]]  # the table of tpu_neighbourhood_cut.py


def test_what_does_not_fit_is_named():
    q, k, v, _ = draw((3, 4, 5), 3, 64)
    with pytest.raises(NotImplementedError, match="3 heads of width 64"):
        tpu_neighbourhood_attention(q, k, v, (3, 3, 3), 1.0)
    array = jax.ShapeDtypeStruct((1, 64, 64, 64, 2, 64), jnp.float32)
    assert "too large" in str(unsupported(array, (33, 33, 33), 128))
    assert queries_for("TPU v6 lite") == queries_for("TPU7x") == 256 and queries_for("TPU v5 lite") == 128
