"""The Triton attention kernels compiled for cards that are not here; ptxas says registers and spills."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from benchmarks.ptxas import compile_report
from ltx_jax.kernels.gpu_triton import triton_attention
from ltx_jax.kernels.gpu_triton_tiles import triton_tile
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.planning.topology import topology

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec("jax_plugins.xla_cuda12") is None,
    reason="the CUDA compiler is not installed (extra `plan`)",
)
CARDS = {"a100:1": 163 * 1024, "rtx4090": 99 * 1024}  # shared memory of a program
# name: (heads, head width, T, S, dtype, masks, causal)
VARIANTS = {
    "video": (8, 128, 16411, 16411, jnp.bfloat16, "", False),
    "even": (8, 128, 16384, 16384, jnp.bfloat16, "", False),
    "padded": (8, 128, 16411, 16411, jnp.bfloat16, "length", False),
    "text": (8, 128, 700, 257, jnp.bfloat16, "length keep", False),
    "audio": (8, 64, 126, 1411, jnp.bfloat16, "length", False),
    "row": (8, 64, 700, 126, jnp.bfloat16, "row", False),
    "bias": (8, 64, 700, 126, jnp.bfloat16, "bias", False),
    "float16": (8, 128, 1411, 1411, jnp.float16, "", False),
    "float32": (8, 128, 300, 700, jnp.float32, "", False),
    "causal": (8, 64, 1000, 1000, jnp.bfloat16, "", True),
    "narrow": (8, 32, 1411, 126, jnp.bfloat16, "", False),
}
NAMES = {"triton_attention_forward", "triton_attention_backward_keys", "triton_attention_backward_queries"}


def report(card, variants):
    """What ptxas says of the kernels of `variants`, forward and backward, at their default tiles."""
    kind = topology(card).devices[0].device_kind
    calls, arrays = [], []
    for name in variants:
        heads, width, t, s, dtype, masks, causal = VARIANTS[name]
        array = lambda shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype)
        mask = Mask(
            length=array((2,), jnp.int32) if "length" in masks else None,
            keep=array((2, s), jnp.bool_) if "keep" in masks else None,
            bias=array((2, 1, 1 if masks == "row" else t, s), jnp.float32) if masks in ("bias", "row") else None,
        )
        calls.append((AttentionSpec(causal=causal, window=200 if causal else None), triton_tile(kind, width, dtype)))
        arrays.append((array((2, t, heads, width)), array((2, s, heads, width)), mask))

    def step(arrays):
        results = []
        for (spec, tile), (q, k, mask) in zip(calls, arrays, strict=True):
            call = lambda q, k, v, m=mask, s=spec, t=tile: triton_attention(q, k, v, m, s, tile=t)
            out, pull = jax.vjp(call, q, k, k)
            results.append((out, pull(out)))
        return results

    return [row for row in compile_report(step, (arrays,), card) if row["name"].startswith("triton_attention")]


def check(card, variants):
    rows = report(card, variants)
    assert {row["name"].partition("__")[0] for row in rows} == NAMES
    assert len(rows) == len(NAMES) * len(variants)
    for row in rows:
        print(card, row)
        assert row["spill_bytes"] == 0, row
        assert 0 < row["shared_memory_bytes"] <= CARDS[card], row


@pytest.mark.parametrize("card", CARDS)
def test_video_attention_does_not_spill(card):
    check(card, ["video"])


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS)
def test_no_variant_spills(card):
    check(card, [name for name in VARIANTS if name != "video"])


def test_more_elements_than_32_bits_count():
    card = "a100:1"
    kind = topology(card).devices[0].device_kind
    x = jax.ShapeDtypeStruct((2, 514080, 32, 128), jnp.bfloat16)  # 4.2e9 elements
    tile = triton_tile(kind, 128, x.dtype)
    call = lambda q, k, v: triton_attention(q, k, v, Mask(), AttentionSpec(), tile=tile)
    (row,) = [r for r in compile_report(call, (x, x, x), card) if r["name"].startswith("triton_attention")]
    assert row["spill_bytes"] == 0, row
