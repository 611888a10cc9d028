"""Ring and all-to-all attention through the real TPU compiler, without a TPU: kernels run while transfers do."""

import re

import jax
import jax.numpy as jnp
import pytest
from aot import devices_of

from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.spec import AttentionSpec
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import platform_options

TOKENS, HEADS, WIDTH = 32768, 16, 128


def compiled_text(form, sizes, tokens=TOKENS):
    """The scheduled program of one attention, forward and backward, on eight v6e chips."""
    mesh = make_mesh(MeshConfig(*sizes), devices_of("v6e:2x4"))
    with jax.set_mesh(mesh):
        place = jax.NamedSharding(mesh, jax.P(None, "context", "tensor"))
        x = jax.ShapeDtypeStruct((1, tokens, HEADS, WIDTH), jnp.bfloat16, sharding=place)
        spec = AttentionSpec(key_tokens="tokens", context=form)

        def step(q, k, v, d_out):
            out, pull = jax.vjp(lambda *a: attention(*a, spec=spec), q, k, v)
            return out, pull(d_out)

        return jax.jit(step, out_shardings=place).lower(x, x, x, x).compile(platform_options(mesh)).as_text()


def kernels(text):
    """(kernel's name, transfers under way when it starts) of every kernel call, in the order of the schedule."""
    found, under_way = [], 0
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")):  # another computation begins
            under_way = 0
        under_way += len(re.findall(r" (?:collective-permute|all-to-all)-start\(", line))
        under_way -= len(re.findall(r" (?:collective-permute|all-to-all)-done\(", line))
        name = re.search(r"%(tpu_attention_(?:forward|backward))\S* = .*custom-call", line)
        if name:
            found.append((name[1], under_way))
    return found


def test_the_ring_sends_keys_and_their_gradients_while_its_kernels_run():
    text = compiled_text("ring", (1, 1, 8, 1))
    assert "all-gather" not in text and "all-to-all" not in text
    calls = kernels(text)
    assert all(n >= 2 for _, n in calls)
    assert sorted(n for name, n in calls if name == "tpu_attention_backward") == [2, 2, 4]  # k, v; dk, dv; all four


def test_all_to_all_trades_one_half_of_the_heads_beside_the_other():
    text = compiled_text("ulysses", (1, 1, 8, 1))
    assert "all-gather" not in text and "collective-permute" not in text
    calls = kernels(text)
    assert len(calls) == 4 and all(n for _, n in calls)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1, 8, 1), (1, 1, 4, 2)], ids=str)
def test_hybrid_compiles(sizes):
    text = compiled_text("hybrid", sizes)
    assert "all-gather" not in text and "all-to-all" in text and "collective-permute-start" in text
    assert kernels(text)
