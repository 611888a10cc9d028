"""The Hopper kernels' own bodies on a model of the hardware (mosaic_emulator.py), against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tests.kernels.mosaic_emulator as emulator
from ltx_jax.errors import UserError
from ltx_jax.kernels import gpu_hopper_backward, gpu_hopper_common, gpu_hopper_forward
from ltx_jax.kernels.gpu_hopper import hopper_attention, hopper_backward, unsupported
from ltx_jax.kernels.gpu_tiles import HOPPER_TILES, HopperTile
from ltx_jax.kernels.spec import AttentionSpec, Mask

SPEC = AttentionSpec()


@pytest.fixture
def hopper(monkeypatch):
    with emulator.emulated(monkeypatch, gpu_hopper_forward, gpu_hopper_backward, gpu_hopper_common):
        yield


def arrays(seed, batch, queries, keys, heads, width, dtype=jnp.bfloat16, spread=1.0):
    """q, k, v and a cotangent of the output."""
    draw = np.random.default_rng(seed)
    shape = lambda n: (batch, n, heads, width)
    make = lambda n, size: jnp.asarray(draw.normal(size=shape(n)) * size, dtype)
    return make(queries, spread), make(keys, 1.0), make(keys, 1.0), make(queries, 1.0)


def exact(q, k, v, mask, d_out, d_lse, scale=None):
    """out, lse, dq, dk, dv in float64. Hidden keys and values count as zero, whatever they hold."""
    q, k, v, d_out = (np.asarray(x).astype(np.float64) for x in (q, k, v, d_out))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    seen = np.ones((q.shape[0], k.shape[1]), bool)
    if mask.length is not None:
        seen &= np.arange(k.shape[1]) < np.asarray(mask.length)[:, None]
    if mask.keep is not None:
        seen &= np.asarray(mask.keep)
    k, v = (np.where(seen[:, :, None, None], x, 0) for x in (k, v))
    scores = np.where(seen[:, None, None], np.einsum("btnk,bsnk->bnts", q, k) * scale, -np.inf)
    top = np.maximum(scores.max(-1, keepdims=True), -1e290)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    lse = np.where(total > 0, top + np.log(np.maximum(total, 1e-300)), -1e30)[..., 0]
    weights = weights / np.maximum(total, 1e-300)
    out = np.einsum("bnts,bsnk->btnk", weights, v)
    slopes = np.einsum("btnk,bsnk->bnts", d_out, v)
    slopes = weights * (slopes - (d_out * out).sum(-1).transpose(0, 2, 1)[..., None] + np.asarray(d_lse)[..., None])
    dq, dk = (np.einsum(e, slopes, x) * scale for e, x in (("bnts,bsnk->btnk", k), ("bnts,btnk->bsnk", q)))
    return out, lse, dq, dk, np.einsum("bnts,btnk->bsnk", weights, d_out)


def close(actual, expected, tolerance):
    actual = np.asarray(actual).astype(np.float64)
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-3))


def check(q, k, v, d_out, mask=Mask(), tile=None, spec=SPEC, tolerance=1e-2):
    """Output, statistics and gradients (through both) of the kernels against float64."""
    shape = (q.shape[0], q.shape[2], q.shape[1])
    d_lse = jnp.asarray(np.random.default_rng(9).normal(size=shape), jnp.float32)
    call = lambda q, k, v: hopper_attention(q, k, v, mask, spec, tile=tile)
    (out, lse), pull = jax.vjp(call, q, k, v)
    gradients = pull((d_out, d_lse))
    expected = exact(q, k, v, mask, d_out, d_lse, spec.scale)
    close(lse, expected[1], 1e-5)
    close(out, expected[0], tolerance)
    for name, actual, wanted in zip("qkv", gradients, expected[2:], strict=True):
        assert actual.dtype == q.dtype, name
        close(actual, wanted, tolerance)


@pytest.mark.parametrize(("width", "queries", "keys"), [(128, 131, 301), (64, 200, 403), (128, 64, 1), (64, 1, 130)])
def test_lengths_that_divide_nothing(hopper, width, queries, keys):
    check(*arrays(0, 1, queries, keys, 2 if keys == 301 else 1, width))


def test_float16(hopper):
    check(*arrays(1, 1, 77, 259, 1, 64, jnp.float16), tolerance=2e-3)


@pytest.mark.parametrize("width", [64, 128])
def test_a_length_per_sample(hopper, width):
    check(*arrays(2, 4, 70, 300, 1, width), mask=Mask(length=jnp.array([300, 0, 129, 5], jnp.int32)))


@pytest.mark.parametrize("with_length", [False, True])
def test_a_key_mask(hopper, with_length):
    keep = np.random.default_rng(3).random((3, 290)) < 0.3
    keep[1] = False
    keep[2, :260] = False
    length = jnp.array([200, 290, 270], jnp.int32) if with_length else None
    check(*arrays(3, 3, 70, 290, 1, 64), mask=Mask(length=length, keep=jnp.asarray(keep)))


@pytest.mark.parametrize("part", ["length", "keep"])
def test_hidden_keys_may_hold_anything(hopper, part):
    q, k, v, d_out = arrays(4, 2, 66, 200, 1, 128)
    length = jnp.array([150, 70], jnp.int32)
    keep = jnp.arange(200) < length[:, None]
    k, v = (jnp.where(keep[:, :, None, None], x, jnp.nan) for x in (k, v))
    check(q, k, v, d_out, Mask(length=length) if part == "length" else Mask(keep=keep))


def test_extreme_logits(hopper):
    check(*arrays(5, 1, 70, 200, 1, 64, spread=300.0), tolerance=2e-2)


def test_a_scale_of_ones_own(hopper):
    check(*arrays(6, 1, 70, 100, 1, 64), spec=AttentionSpec(scale=0.31))


@pytest.mark.parametrize(
    "tile",
    [
        HopperTile(workers=3, keys=64, slots=4, dq_workers=3, dq_keys=128, dq_slots=2, dkv_workers=3, dkv_slots=3),
        HopperTile(workers=2, keys=192, slots=3, dq_workers=2, dq_keys=192, dq_slots=3, dkv_queries=128),
    ],
)
def test_other_tiles(hopper, tile):
    check(*arrays(7, 1, 250, 450, 1, 64), tile=tile, mask=Mask(length=jnp.array([430], jnp.int32)))


def test_parts_of_the_keys_merge(hopper):
    q, k, v, _ = arrays(8, 1, 70, 300, 1, 64)
    whole = hopper_attention(q, k, v, Mask(), SPEC)[0]
    parts = [hopper_attention(q, k[:, a:b], v[:, a:b], Mask(), SPEC) for a, b in ((0, 101), (101, 300))]
    weights = jax.nn.softmax(jnp.stack([lse for _, lse in parts]), axis=0)
    merged = sum(w.transpose(0, 2, 1)[..., None] * out for w, (out, _) in zip(weights, parts, strict=True))
    close(merged, np.asarray(whole).astype(np.float64), 1e-2)


def test_gradients_over_parts_of_the_keys_add_up(hopper):
    """As a ring needs them: each part knows the statistics of the whole row."""
    q, k, v, d_out = arrays(8, 2, 70, 300, 1, 64)
    mask = Mask(length=jnp.array([250, 290], jnp.int32))
    out, lse, *expected = exact(q, k, v, mask, d_out, np.zeros((2, 1, 70)))
    delta = (np.asarray(d_out, np.float64) * out).sum(-1).transpose(0, 2, 1)
    rows = [jnp.asarray(x, jnp.float32) for x in (lse, delta)]
    found = []
    for a, b in ((0, 101), (101, 300)):
        part = Mask(length=jnp.clip(mask.length - a, 0, b - a))
        found.append(hopper_backward(q, k[:, a:b], v[:, a:b], part, SPEC, *rows, d_out))
    close(sum(x[0].astype(jnp.float32) for x in found), expected[0], 1e-2)
    for i in (1, 2):
        close(jnp.concatenate([x[i] for x in found], axis=1), expected[i], 1e-2)


def test_what_is_not_taken_is_said():
    q, k, v, _ = arrays(0, 1, 8, 8, 2, 64)
    assert unsupported(q, k, v, Mask(), SPEC) is None
    for said, change in {
        "dtypes": {"q": q.astype(jnp.float32)},
        "width": {"q": q[..., :32], "k": k[..., :32], "v": v[..., :32]},
        "differ": {"k": k[:, :, :1]},
        "no keys": {"k": k[:, :0], "v": v[:, :0]},
        "bias": {"mask": Mask(bias=jnp.zeros((1, 1, 8, 8)))},
        "causal": {"spec": AttentionSpec(causal=True)},
        "scale": {"spec": AttentionSpec(scale=-1.0)},
    }.items():
        call = {"q": q, "k": k, "v": v, "mask": Mask(), "spec": SPEC} | change
        assert said in unsupported(**call)
        with pytest.raises(NotImplementedError, match=said):
            hopper_attention(**call)


def test_bad_tiles_are_refused():
    for field, value in {"workers": 4, "keys": 100, "dkv_queries": 32, "slots": 1}.items():
        with pytest.raises(UserError, match=field):
            HopperTile(**{field: value})
    assert set(HOPPER_TILES) == {64, 128}
