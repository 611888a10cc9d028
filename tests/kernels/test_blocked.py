"""Blocks of the blocked attention: equal, and padded by little."""

import jax
import numpy as np
import pytest

from ltx_jax.kernels.blocked import ALIGNED, block_size, blocked_attention
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.spec import AttentionSpec, Mask


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
