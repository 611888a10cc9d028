"""Ring, all-to-all, hybrid and merged attention over faked devices against the definition in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.context import attend, make_plan
from ltx_jax.kernels.local import Kernel, merge
from ltx_jax.kernels.softmax import HIDDEN
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import Tile
from ltx_jax.parallel.mesh import MeshConfig, make_mesh

BATCH, TOKENS, HEADS, WIDTH = 2, 16, 8, 8
TILE = Tile(queries=128, keys=128, strip=128, backward_queries=128, backward_keys=128)


def exact(q, k, v, mask, d_out):
    """Output, dq, dk, dv in float64 NumPy."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    seen = np.ones((q.shape[0], 1, 1, k.shape[1]), bool)
    if mask.length is not None:
        seen = seen & (np.arange(k.shape[1]) < np.asarray(mask.length)[:, None, None, None])
    if mask.keep is not None:
        seen = seen & np.asarray(mask.keep)[:, None, None]
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("btnk,bsnk->bnts", q, k) * scale
    scores = np.where(seen, scores if mask.bias is None else scores + np.asarray(mask.bias, np.float64), -np.inf)
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True, initial=-1e30))
    total = weights.sum(-1, keepdims=True)
    p = weights / np.where(total > 0, total, 1)
    out = np.einsum("bnts,bsnk->btnk", p, v)
    dp = np.einsum("btnk,bsnk->bnts", d_out, v)
    ds = p * (dp - np.einsum("btnk,btnk->bnt", d_out, out)[..., None]) * scale
    products = (("bnts,bsnk->btnk", ds, k), ("bnts,btnk->bsnk", ds, q), ("bnts,btnk->bsnk", p, d_out))
    return out, *(np.einsum(*product) for product in products)


def draw(queries=TOKENS, keys=TOKENS, batch=BATCH, heads=HEADS, width=WIDTH, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    make = lambda length: jnp.asarray(rng.normal(size=(batch, length, heads, width)), dtype)
    return make(queries), make(keys), make(keys), make(queries), rng


def masks(kind, rng, queries=TOKENS, keys=TOKENS):
    if kind == "length":  # ends inside a shard; the second sample's queries see nothing
        return Mask(length=jnp.asarray([keys - 3, 0], jnp.int32))
    if kind == "keep":
        return Mask(keep=jnp.asarray(rng.random((BATCH, keys)) < 0.5))
    if kind == "row":
        return Mask(bias=jnp.asarray(rng.normal(size=(1, 1, 1, keys)), jnp.float32))
    if kind == "bias":
        return Mask(bias=jnp.asarray(rng.normal(size=(BATCH, HEADS, queries, keys)), jnp.float32))
    return Mask()


def value_and_gradients(sizes, call, q, k, v, d_out):
    with jax.set_mesh(make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])):
        value, pull = jax.vjp(jax.jit(call), q, k, v)
        return value, *pull(d_out)


def check(results, expected, tolerance=2e-5):
    for ours, theirs in zip(results, expected, strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=tolerance, atol=tolerance)


def spec(form="auto", queries="tokens"):
    return AttentionSpec(query_tokens=queries, key_tokens="tokens", context=form)


@pytest.mark.parametrize("kind", ["none", "length", "keep", "row", "bias"])
@pytest.mark.parametrize(
    ("form", "sizes"),
    [
        ("ring", (1, 1, 8, 1)),
        ("ring", (2, 1, 2, 2)),
        ("ulysses", (2, 1, 4, 1)),
        ("ulysses", (2, 1, 2, 2)),
        ("hybrid", (1, 1, 8, 1)),
        ("hybrid", (1, 1, 4, 2)),
    ],
    ids=str,
)
def test_matches_float64(form, sizes, kind):
    q, k, v, d_out, rng = draw()
    mask = masks(kind, rng)
    results = value_and_gradients(sizes, lambda *a: attention(*a, mask, spec(form)), q, k, v, d_out)
    check(results, exact(q, k, v, mask, d_out))


@pytest.mark.parametrize("kind", ["none", "length", "keep", "bias"])
@pytest.mark.parametrize("sizes", [(1, 1, 8, 1), (2, 1, 2, 2)], ids=str)
def test_replicated_queries_merge_partial_results(sizes, kind):
    q, k, v, d_out, rng = draw(queries=5)
    mask = masks(kind, rng, queries=5)
    form = spec("ring", queries="tokens_replicated")
    results = value_and_gradients(sizes, lambda *a: attention(*a, mask, form), q, k, v, d_out)
    check(results, exact(q, k, v, mask, d_out))


def plan_of(form, kernel, q, k):
    return make_plan(kernel, q, k, spec(form), jax.sharding.get_abstract_mesh(), lambda heads: True)


@pytest.mark.parametrize("form", ["ring", "ulysses"])
def test_the_tpu_kernel_in_interpret_mode(form):
    q, k, v, d_out, _ = draw(queries=256, keys=256, heads=2, width=128)
    mask = Mask(length=jnp.asarray([200, 100], jnp.int32))
    kernel = Kernel("tpu", AttentionSpec(), TILE, interpret=True)

    def call(q, k, v):
        return attend(plan_of(form, kernel, q, k), q, k, v, mask)

    check(value_and_gradients((1, 1, 2, 1), call, q, k, v, d_out)[:], exact(q, k, v, mask, d_out))


@pytest.mark.parametrize(
    ("heads", "sizes", "trade", "ring"),
    [(4, (1, 1, 8, 1), 4, 2), (4, (1, 2, 2, 2), 2, 1), (3, (1, 1, 8, 1), 1, 8), (8, (1, 1, 8, 1), 8, 1)],
)
def test_heads_are_traded_as_far_as_they_go(heads, sizes, trade, ring):
    x = jax.ShapeDtypeStruct((2, 16, heads, 8), jnp.float32)
    with jax.set_mesh(make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])):
        plan = plan_of("auto", Kernel("blocked"), x, x)
    assert (plan.exchange.size, plan.ring.size) == (trade, ring)


@pytest.mark.parametrize(("form", "heads", "pieces"), [("ulysses", 8, 1), ("ulysses", 16, 2), ("ring", 16, 1)])
def test_heads_are_halved_where_one_half_can_hide_the_trade_of_the_other(form, heads, pieces):
    x = jax.ShapeDtypeStruct((2, 16, heads, 8), jnp.float32)
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 8, 1))):
        assert plan_of(form, Kernel("blocked"), x, x).pieces == pieces


def test_keys_that_are_not_sharded_need_no_plan():
    x, odd = (jax.ShapeDtypeStruct((2, tokens, 4, 8), jnp.float32) for tokens in (16, 13))
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 8, 1))):
        mesh, kernel = jax.sharding.get_abstract_mesh(), Kernel("blocked")
        for keys, form in ((odd, spec()), (x, AttentionSpec()), (x, spec("gather"))):
            assert make_plan(kernel, x, keys, form, mesh, lambda heads: True) is None


@pytest.mark.parametrize(("form", "heads"), [("ulysses", 4), ("hybrid", 3)])
def test_a_form_that_the_heads_do_not_allow_is_named(form, heads):
    q, k, v, *_ = draw(heads=heads)
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 8, 1))), pytest.raises(UserError, match=f"{heads} "):
        attention(q, k, v, spec=spec(form))


@pytest.mark.parametrize(
    ("form", "sizes"), [("ring", (1, 1, 8, 1)), ("ulysses", (1, 1, 4, 2)), ("hybrid", (1, 1, 8, 1))], ids=str
)
def test_no_device_gathers_the_keys(form, sizes):
    q, *_ = draw(heads=8)
    x = jax.ShapeDtypeStruct(q.shape, q.dtype)
    mesh = make_mesh(MeshConfig(*sizes))
    with jax.set_mesh(mesh):
        place = jax.NamedSharding(mesh, jax.P(None, "context", "tensor"))
        step = lambda q, k, v, d: jax.vjp(lambda *a: attention(*a, spec=spec(form)), q, k, v)[1](d)
        traced = str(jax.make_jaxpr(step)(x, x, x, x))
        text = jax.jit(step, in_shardings=place, out_shardings=place).lower(x, x, x, x).compile().as_text()
    assert "all_gather" not in traced and "all-gather" not in text
    assert ("collective-permute" in text) == (form != "ulysses")
    assert ("all-to-all" in text) == (form != "ring")


def test_the_result_is_the_same_every_time():
    q, k, v, d_out, _ = draw()
    run = lambda: value_and_gradients((1, 1, 8, 1), lambda *a: attention(*a, spec=spec("ring")), q, k, v, d_out)
    jax.tree.map(np.testing.assert_array_equal, run(), run())


def test_rows_that_see_nothing_merge_to_nothing():
    empty = (jnp.zeros((1, 2, 1, 4)), jnp.full((1, 1, 2), HIDDEN))
    full = (jnp.ones((1, 2, 1, 4)), jnp.zeros((1, 1, 2)))
    out, lse = merge(empty, empty)
    assert bool(jnp.all(out == 0)) and bool(jnp.all(lse == HIDDEN))
    np.testing.assert_array_equal(merge(empty, full)[0], full[0])
