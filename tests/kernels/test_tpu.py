"""The TPU attention kernels in interpret mode against the definition in float64, with gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import check as against_exact
from exact import check_parts_merge, exact, inputs
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import Tile, fit
from ltx_jax.kernels.tpu import tpu_attention, unsupported

SMALL = Tile(queries=128, keys=256, strip=128, backward_queries=128, backward_keys=128, matrix_sum=True)
APART = Tile(queries=128, keys=128, strip=128, backward_queries=128, backward_keys=128, resident=0)


def check(shape, mask=Mask(), spec=AttentionSpec(), tile=SMALL, dtype=jnp.float32, tolerance=2e-5, interpret=True):
    """Output, statistics and gradients of one call."""
    call = functools.partial(tpu_attention, tile=tile, interpret=interpret)
    against_exact(call, shape, mask, spec, dtype, tolerance)


both = pytest.mark.parametrize("tile", [SMALL, APART], ids=["one kernel", "two kernels"])


@both
@pytest.mark.parametrize("shape", [(2, 149, 300, 4, 32), (1, 300, 61, 1, 128)])
def test_ragged_lengths(shape, tile):
    check(shape, tile=tile)


def test_even_lengths():
    check((1, 128, 256, 1, 128))


@both
def test_key_lengths_and_masks(tile):
    b, _, s, _, _ = shape = (3, 140, 290, 1, 128)
    rng = np.random.default_rng(0)
    length = jnp.asarray([rng.integers(1, s), 0, s], jnp.int32)  # the second sample's rows see nothing
    check(shape, Mask(length=length, keep=jnp.asarray(rng.random((b, s)) < 0.4)), tile=tile)


@pytest.mark.parametrize("which", [(1, 2, 1), (2, 1, 150)])
def test_bias(which):
    shape = (2, 150, 300, 2, 64)
    rng = np.random.default_rng(1)
    bias = jnp.asarray(rng.normal(size=(*which, shape[2])) * 4, jnp.float32)
    check(shape, Mask(bias=bias.at[..., 7].set(-jnp.inf), length=jnp.asarray([300, 131])))


@both
@pytest.mark.parametrize(("window", "lengths"), [(None, (300, 500)), (100, (500, 170)), (100, (400, 400))])
def test_causal_and_window(window, lengths, tile):
    check((1, *lengths, 1, 128), spec=AttentionSpec(causal=True, window=window, scale=0.3), tile=tile)


@both
def test_in_the_model_of_a_tpu(tile):
    """Pallas's simulation of memories and transfers: blocks are written back as on the device, fresh memory is NaN."""
    interpret = pltpu.InterpretParams(uninitialized_memory="nan")
    check((2, 300, 290, 1, 128), Mask(length=jnp.asarray([131, 0])), tile=tile, interpret=interpret)


def test_bfloat16():
    check((1, 200, 300, 2, 64), dtype=jnp.bfloat16, tolerance=2e-2)


@both
def test_padding_may_hold_anything(tile):
    q, k, v, rng = inputs((2, 130, 200, 1, 128))
    keep = rng.random((2, 200)) < 0.5
    mask = Mask(length=jnp.asarray([150, 0]), keep=jnp.asarray(keep))
    hidden = ~(keep & (np.arange(200) < np.array([150, 0])[:, None]))[:, :, None, None]
    call = lambda q, k, v: jnp.sum(tpu_attention(q, k, v, mask, AttentionSpec(), tile=tile, interpret=True)[0] ** 2)
    call = jax.jit(jax.value_and_grad(call, argnums=(0, 1, 2)))
    clean, dirty = call(q, k, v), call(q, jnp.where(hidden, jnp.nan, k), jnp.where(hidden, jnp.nan, v))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert all(bool(jnp.all(g[1] == 0)) for g in clean[1])  # the sample without keys


def test_extreme_logits_stay_finite():
    q, k, v, _ = inputs((1, 130, 140, 1, 128), scale=1e4)
    call = lambda *a: tpu_attention(*a, Mask(), AttentionSpec(), tile=SMALL, interpret=True)[0]
    out, pull = jax.jit(lambda *a: jax.vjp(call, *a))(q, k, v)
    np.testing.assert_allclose(out, exact(q, k, v, Mask(), AttentionSpec())[0], rtol=1e-4)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.jit(pull)(out))


def test_parts_of_the_keys_merge_to_the_whole():
    check_parts_merge(lambda *a: tpu_attention(*a, Mask(), AttentionSpec(), tile=SMALL, interpret=True), 128)


def test_what_does_not_fit_is_named():
    q, k, v, _ = inputs((1, 8, 8, 4, 48))
    with pytest.raises(NotImplementedError, match="4 heads of width 48"):
        tpu_attention(q, k, v, Mask(), AttentionSpec())
    assert unsupported(*(x[..., :3, :32] for x in (q, k, v))) is not None  # three heads do not fill 128 columns
    assert unsupported(*(x[..., :32] for x in (q, k, v))) is None


def test_blocks_cut_evenly():
    for length in (1, 128, 550, 1025, 16411):
        size = fit(length, 1024, 256)
        assert size % 256 == 0 and size <= 1024
        assert -(-length // size) == -(-length // 1024)
