"""FLOPs against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.parallel.flops import function_flops, valid_pairs


def test_products_count_two_per_multiply_add():
    x, w = jnp.ones((3, 5, 7)), jnp.ones((7, 11))
    assert function_flops(lambda: x @ w) == 2 * 3 * 5 * 7 * 11
    assert function_flops(lambda: jnp.einsum("bij,bkj->bik", x, x)) == 2 * 3 * 5 * 5 * 7
    assert function_flops(lambda: jnp.sin(x)) == 0


def test_loops_branches_and_gradients_count_in_full():
    x = jnp.ones((8, 8))
    once = 2 * 8**3
    assert function_flops(lambda: jax.lax.fori_loop(0, 5, lambda _, c: c @ c, x)) == 5 * once
    unknown = lambda n: jax.lax.fori_loop(0, n, lambda _, c: c @ c, x)
    assert function_flops(unknown, 3, trips=7) == 7 * once
    branch = lambda p: jax.lax.cond(p, lambda c: c @ c @ c, lambda c: c, x)
    assert function_flops(branch, True) == 2 * once
    loss = lambda w: jnp.sum(x @ w)
    assert function_flops(jax.grad(loss), x) == once + once  # forward and dw; dx is not needed
    remat = jax.checkpoint(lambda w: jnp.sin(x @ w))
    assert function_flops(jax.grad(lambda w: jnp.sum(remat(w))), x) == 3 * once


@pytest.mark.parametrize(("size", "window", "stride", "low", "dilation", "taps"), [
    (9, 3, 1, 1, 1, 1), (9, 3, 2, 1, 1, 1), (5, 3, 1, 2, 2, 1), (9, 3, 1, 0, 1, 2),
])  # fmt: skip
def test_convolutions_skip_padding_and_gaps(size, window, stride, low, dilation, taps):
    padded = np.zeros((size - 1) * dilation + 1 + 2 * low)
    padded[low : low + (size - 1) * dilation + 1 : dilation] = 1
    out = (len(padded) - (window - 1) * taps - 1) // stride + 1
    brute = sum(padded[o * stride + t * taps] for o in range(out) for t in range(window))
    assert valid_pairs(size, window, out, stride, low, dilation, taps) == brute


def test_a_convolution_counts_channels_and_batch():
    x, kernel = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4, 8))
    conv = lambda: jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )  # fmt: skip
    assert function_flops(conv) == 2 * 2 * 4 * 4 * 9 * 4 * 8
