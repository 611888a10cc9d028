"""One training step through ring, all-to-all and merged attention gives the gradients of one device."""

import functools

import jax
import numpy as np
import pytest
from test_meshes import loss_and_gradients

from ltx_jax.kernels.spec import AttentionSpec
from ltx_jax.models.dit import block


@pytest.mark.parametrize(
    ("sizes", "form"),
    [
        pytest.param((1, 2, 2, 2), "ring", marks=pytest.mark.slow),
        pytest.param((2, 2, 2, 1), "ring", marks=pytest.mark.slow),
        pytest.param((2, 2, 2, 1), "ulysses", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_form_named_at_toy_size_gives_the_gradients_of_one_device(sizes, form, monkeypatch):
    expected_loss, expected = loss_and_gradients((1, 1, 1, 1))
    monkeypatch.setattr(block, "AttentionSpec", functools.partial(AttentionSpec, context=form))
    loss, gradients = loss_and_gradients.__wrapped__(sizes)
    assert abs(loss - expected_loss) <= 1e-5 * abs(expected_loss)
    for (path, wanted), got in zip(
        jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(gradients), strict=True
    ):
        size = np.linalg.norm(wanted)
        assert np.linalg.norm(got - wanted) <= 1e-5 * size + 1e-12, jax.tree_util.keystr(path)
