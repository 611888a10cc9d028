"""Norm, rotation and gates inside the TPU kernel, in interpret mode, against the definition in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_params
from exact import exact, exact_gradients, inputs
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels import attention as front
from ltx_jax.kernels.local import Kernel
from ltx_jax.kernels.prologue import Prologue, inverse_rms, packed, prepare, rotate
from ltx_jax.kernels.prologue_attention import attention_with_prologue, fuses
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import Tile
from ltx_jax.models.dit.block import Attention
from ltx_jax.parallel.mesh import MeshConfig, make_mesh

SMALL = Tile(queries=128, keys=256, strip=128, backward_queries=128, backward_keys=128, matrix_sum=True)
KEYS_OUTSIDE = dataclasses.replace(SMALL, resident=0)
EPS = 1e-5


def table(rng, tokens, heads, width, batch=1):
    angle = rng.normal(size=(batch, tokens, heads, width // 2)) * 3
    return packed((jnp.asarray(np.cos(angle)), jnp.asarray(np.sin(angle))))


def exact_side(x, weight, tables):
    """Prepared x and the function from its gradient to those of x and the weight, in float64 NumPy."""
    x, half, flat = np.asarray(x, np.float64), x.shape[-1] // 2, (x.shape[0], x.shape[1], -1)
    w = np.asarray(weight, np.float64).reshape(x.shape[2:])
    r = 1 / np.sqrt((x.reshape(flat) ** 2).mean(-1)[..., None, None] + EPS)
    cos, sin = np.ones(half), np.zeros(half)
    if tables is not None:
        t = np.asarray(tables, np.float64).reshape(tables.shape[0], *x.shape[1:])
        cos, sin = t[..., :half], t[..., half:]
    turn = lambda y, sin: np.concatenate(
        [y[..., :half] * cos - y[..., half:] * sin, y[..., half:] * cos + y[..., :half] * sin], axis=-1
    )

    def pull(d):
        d = turn(np.asarray(d, np.float64), -sin)
        mean = (d * w * x).reshape(flat).mean(-1)[..., None, None]
        return r * d * w - x * r**3 * mean, (d * x * r).sum((0, 1)).reshape(-1)

    return turn(x * r * w, sin), pull


def problem(shape, rotated=True, gated=True, dtype=jnp.float32, batch_of_tables=1):
    """q, k, v, prologue and a cotangent."""
    b, t, s, n, width = shape
    q, k, v, rng = inputs(shape, dtype=dtype)
    weight = lambda: jnp.asarray(1 + 0.3 * rng.normal(size=n * width), jnp.float32)
    tables = [table(rng, length, n, width, batch_of_tables) if rotated else None for length in (t, s)]
    gates = jnp.asarray(rng.uniform(0.1, 2, (b, t, n)), dtype) if gated else None
    return (q, k, v, Prologue(weight(), weight(), *tables, gates, EPS)), jnp.asarray(rng.normal(size=q.shape), dtype)


def check(call, arguments, d_out, mask=Mask(), spec=AttentionSpec(), tolerance=2e-5):
    """Output and all gradients of call(q, k, v, prologue) -> output."""
    q, k, v, prologue = arguments
    run = jax.jit(lambda *a: (lambda out, pull: (out, pull(d_out)))(*jax.vjp(call, *a)))
    out, (dq, dk, dv, d_prologue) = run(*arguments)
    (q, pull_q), (k, pull_k) = (
        exact_side(x, w, t)
        for x, w, t in ((q, prologue.q_weight, prologue.q_table), (k, prologue.k_weight, prologue.k_table))
    )
    gates = np.ones(q.shape[:3]) if prologue.gates is None else np.asarray(prologue.gates, np.float64)
    plain, d = exact(q, k, v, mask, spec)[0], np.asarray(d_out, np.float64)
    none = np.zeros((q.shape[0], q.shape[2], q.shape[1]))
    theirs = exact_gradients(q, k, v, mask, spec, d * gates[..., None], none)
    (exact_dq, exact_dw), (exact_dk, exact_dkw) = pull_q(theirs[0]), pull_k(theirs[1])
    close = lambda ours, theirs, tolerance: np.testing.assert_allclose(
        np.asarray(ours, np.float64), theirs, rtol=tolerance, atol=tolerance * max(1.0, np.abs(theirs).max())
    )
    close(out, plain * gates[..., None], tolerance)
    close(dq, exact_dq, 10 * tolerance)
    close(dk, exact_dk, 10 * tolerance)
    close(dv, theirs[2], 10 * tolerance)
    close(d_prologue.q_weight, exact_dw, 10 * tolerance)
    close(d_prologue.k_weight, exact_dkw, 10 * tolerance)
    if prologue.gates is not None:
        close(d_prologue.gates, (plain * d).sum(-1), 10 * tolerance)


def fused(mask=Mask(), spec=AttentionSpec(), tile=SMALL, interpret=True):
    kernel = Kernel("tpu", spec, tile, interpret=interpret)
    return lambda *a: attention_with_prologue(kernel, jax.sharding.get_abstract_mesh(), *a[:3], mask, a[3])


NARROW, WIDE = (2, 149, 300, 2, 64), (1, 300, 161, 1, 128)


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        pytest.param(WIDE, SMALL, id="wide, keys inside"),
        pytest.param(NARROW, KEYS_OUTSIDE, id="narrow, keys outside"),
        pytest.param(NARROW, SMALL, id="narrow, keys inside", marks=pytest.mark.slow),
        pytest.param(WIDE, KEYS_OUTSIDE, id="wide, keys outside", marks=pytest.mark.slow),
    ],
)
def test_ragged_lengths(shape, tile):
    check(fused(tile=tile), *problem(shape))


@pytest.mark.parametrize(("rotated", "gated"), [(False, True), (True, False)])
def test_what_is_absent_is_not_applied(rotated, gated):
    check(fused(), *problem((1, 130, 140, 2, 64), rotated, gated))


def test_masks_tables_per_sample_and_scale():
    b, t, s, _, _ = shape = (3, 140, 290, 1, 128)
    rng = np.random.default_rng(0)
    mask = Mask(
        length=jnp.asarray([rng.integers(1, s), 0, s], jnp.int32),  # the second sample's rows see nothing
        keep=jnp.asarray(rng.random((b, s)) < 0.4),
        bias=jnp.asarray(rng.normal(size=(1, 1, t, s)), jnp.float32),
    )
    spec = AttentionSpec(scale=0.2)
    check(fused(mask, spec), *problem(shape, batch_of_tables=b), mask, spec)


def test_bfloat16():
    check(fused(), *problem((1, 200, 300, 2, 64), dtype=jnp.bfloat16), tolerance=2e-2)


def test_in_the_model_of_a_tpu():
    """Keys prepared for one block of queries are there for the next; what was not prepared would be NaN."""
    mask = Mask(length=jnp.asarray([131, 0]))
    interpret = pltpu.InterpretParams(uninitialized_memory="nan")
    check(fused(mask, interpret=interpret), *problem((2, 300, 290, 1, 128)), mask)


def test_padding_may_hold_anything():
    (q, k, v, prologue), _ = problem((2, 130, 200, 1, 128))
    mask = Mask(length=jnp.asarray([150, 0]))
    hidden = ~(np.arange(200) < np.array([150, 0])[:, None])[:, :, None, None]
    call = jax.jit(fused(mask))
    clean, dirty = (
        call(q, k, v, prologue),
        call(q, jnp.where(hidden, jnp.nan, k), jnp.where(hidden, jnp.nan, v), prologue),
    )
    np.testing.assert_array_equal(clean, dirty)


@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (1, 2, 2, 2)])
def test_every_mesh_gives_the_exact_result(sizes):
    """Tokens of the queries lie on `context` in the second."""
    mask, spec = Mask(length=jnp.asarray([70, 0, 40, 55])), AttentionSpec(query_tokens="tokens")
    arguments, d_out = problem((4, 128, 70, 4, 64))
    with jax.set_mesh(make_mesh(MeshConfig(*sizes))):
        check(fused(mask, spec), arguments, d_out, mask, spec)


def test_the_front_door_fuses_on_tpu_and_falls_back_elsewhere(monkeypatch):
    arguments, d_out = problem((1, 40, 24, 2, 64))
    call = lambda implementation: (
        lambda *a: front.attention(*a[:3], spec=AttentionSpec(implementation=implementation), prologue=a[3])
    )
    for implementation in ("reference", "blocked"):
        check(call(implementation), arguments, d_out)
    monkeypatch.setattr(front, "Kernel", functools.partial(Kernel, interpret=True))
    text = str(jax.make_jaxpr(call("tpu"))(*arguments))
    assert "tpu_attention_forward" in text and "concatenate" not in text.split("pallas_call")[0]  # nothing is rotated
    check(call("tpu"), arguments, d_out)
    plain = AttentionSpec()
    assert not fuses("gpu", plain, arguments[3]) and not fuses("tpu", AttentionSpec(causal=True), arguments[3])
    assert not fuses("tpu", plain, arguments[3].replace(rotation="interleaved"))


def test_the_plain_pass_is_norm_then_rotation():
    (q, _, _, prologue), _ = problem((2, 7, 5, 2, 8))
    side = prologue.sides(q, q)[0]
    normed = q * inverse_rms(q, EPS)[..., None, None] * prologue.q_weight.reshape(2, 8)
    for rotation in ("split", "interleaved"):
        expected = rotate(normed, prologue.q_table, rotation)
        np.testing.assert_array_equal(prepare(q, side, rotation), expected)
        cos, sin = jnp.split(prologue.q_table.reshape(1, 7, 2, 8), 2, axis=-1)
        np.testing.assert_array_equal(rotate(normed, (cos, sin), rotation), expected)


@pytest.mark.parametrize("gated", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_layer_takes_the_kernel_and_agrees_with_itself(monkeypatch, gated, mesh):
    rng = np.random.default_rng(3)
    x, context = (jnp.asarray(rng.normal(size=(2, n, 32)), jnp.float32) for n in (150, 90))
    tables = table(rng, 150, 2, 64), table(rng, 90, 2, 64)
    module = Attention(32, 32, 2, 64, gated=gated)
    params = drawn_params(module, x, context)
    call = lambda params, x: jnp.sum(module.apply({"params": params}, x, context, Mask(), *tables) ** 2)
    run = lambda: jax.jit(jax.value_and_grad(call, argnums=(0, 1)))(params, x)
    expected = run()
    monkeypatch.setattr(front, "Kernel", functools.partial(Kernel, interpret=True))
    monkeypatch.setattr(front, "_choose", lambda *_: "tpu")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), run(), expected)
