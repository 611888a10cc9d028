import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_params

from ltx_jax.kernels.spec import Mask
from ltx_jax.models.dit.block import Attention, FeedForward
from ltx_jax.models.layers import init_params

pytestmark = pytest.mark.usefixtures("mesh")


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 12)), jnp.float32)


def test_young_gates_change_nothing(x):
    gated, plain = (Attention(12, 12, 3, 4, gated=g) for g in (True, False))
    params = init_params(gated, jax.random.key(0), x)
    without = {k: v for k, v in params.items() if k != "to_gate_logits"}
    np.testing.assert_array_equal(gated.apply({"params": params}, x), plain.apply({"params": without}, x))


def test_skipped_samples_get_their_values(x):
    module = Attention(12, 12, 3, 4)
    params = drawn_params(module, x)
    y = module.apply({"params": params}, x, keep=jnp.array([1.0, 0.0])[:, None, None])
    np.testing.assert_array_equal(y[0], module.apply({"params": params}, x)[0])
    values = x @ params["to_v"]["kernel"] + params["to_v"]["bias"]
    expected = values @ params["to_out"]["kernel"] + params["to_out"]["bias"]
    np.testing.assert_allclose(y[1], expected[1], atol=1e-5)


def test_keys_beyond_the_length_are_not_seen(x):
    module = Attention(12, 12, 3, 4)
    params = drawn_params(module, x)
    length = jnp.array([3, 5])
    y = module.apply({"params": params}, x, mask=Mask(length=length))
    changed = module.apply({"params": params}, x.at[0, 3:].add(7.0), mask=Mask(length=length))
    np.testing.assert_array_equal(y[0, :3], changed[0, :3])
    np.testing.assert_array_equal(y[1], changed[1])


def test_cross_attention_has_its_own_inner_width(x):
    context = jnp.ones((2, 7, 10))
    params = drawn_params(Attention(12, 10, 2, 4), x, context)
    assert params["to_q"]["kernel"].shape == (12, 8) and params["to_k"]["kernel"].shape == (10, 8)
    assert params["q_norm"].shape == (8,) and params["to_out"]["kernel"].shape == (8, 12)


def test_feed_forward_without_biases(x):
    params = drawn_params(FeedForward(12, use_bias=False), x)
    assert set(params["proj"]) == set(params["out"]) == {"kernel"}
    assert params["proj"]["kernel"].shape == (12, 48)
