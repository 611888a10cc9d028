"""The TPU attention kernels through the real TPU compiler, without a TPU: every variant for every generation."""

import jax
import jax.numpy as jnp
import pytest
from aot import CHIPS, devices_of, pairs

from benchmarks.vmem import kernel_vmem
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import tile_for
from ltx_jax.kernels.tpu import tpu_attention

# name: (heads, head width, T, S, dtype, masks, causal)
VARIANTS = {
    "video": (1, 128, 16411, 16411, jnp.bfloat16, "", False),
    "resident": (1, 128, 131072, 512, jnp.bfloat16, "", False),  # the longest query gradient that one v6e kernel holds
    "long": (1, 128, 140000, 1024, jnp.bfloat16, "", False),  # two backward kernels
    "audio": (2, 64, 126, 1411, jnp.bfloat16, "length", False),
    "text": (1, 128, 700, 256, jnp.bfloat16, "length keep", False),
    "bias": (2, 64, 700, 126, jnp.bfloat16, "bias", False),
    "row": (1, 128, 700, 126, jnp.bfloat16, "row", False),
    "float32": (1, 128, 300, 700, jnp.float32, "", False),
    "causal": (1, 128, 1024, 1024, jnp.bfloat16, "", True),
}
QUICK = [*((chip, "video") for chip in CHIPS), ("v6e:2x2", "resident"), ("v5e:2x2", "bias"), ("v6e:2x2", "causal")]


def compile_for(chip, variant):
    """The compiled forward and backward of one variant at its default tile, and the tile."""
    device = devices_of(chip)[0]
    heads, width, t, s, dtype, masks, causal = VARIANTS[variant]
    here = jax.sharding.SingleDeviceSharding(device)
    array = lambda shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=here)
    mask = Mask(
        length=array((2,), jnp.int32) if "length" in masks else None,
        keep=array((2, s), jnp.bool_) if "keep" in masks else None,
        bias=array((2, 1, 1 if masks == "row" else t, s), jnp.float32) if masks in ("bias", "row") else None,
    )
    tile = tile_for(device.device_kind)
    spec = AttentionSpec(causal=causal, window=200 if causal else None)

    def step(q, k, v, mask):
        results, pull = jax.vjp(lambda *a: tpu_attention(*a, mask, spec, tile=tile), q, k, v)
        return results, pull(results)

    q, k = array((2, t, heads, width)), array((2, s, heads, width))
    return jax.jit(step).lower(q, k, k, mask).compile(), tile


def check(chip, variant):
    compiled, tile = compile_for(chip, variant)
    sizes = kernel_vmem(compiled.as_text())
    parts = {"tpu_attention_backward"}
    if VARIANTS[variant][2] * 128 * 4 > tile.resident:
        parts = {"tpu_attention_backward_keys", "tpu_attention_backward_queries"}
    assert set(sizes) == {"tpu_attention_forward"} | parts
    assert max(sizes.values()) <= tile.vmem
    print(f"{chip} {variant} VMEM bytes: {sizes}")


@pytest.mark.parametrize(("chip", "variant"), pairs(QUICK, VARIANTS))
def test_compiles(chip, variant):
    check(chip, variant)


def test_more_elements_than_32_bits_count():
    device = devices_of("v5p:2x2x1")[0]
    here = jax.sharding.SingleDeviceSharding(device)
    x = jax.ShapeDtypeStruct((2, 514080, 32, 128), jnp.bfloat16, sharding=here)  # 4.2e9 elements
    call = lambda q, k, v: tpu_attention(q, k, v, Mask(), AttentionSpec(), tile=tile_for(device.device_kind))
    assert kernel_vmem(jax.jit(call).lower(x, x, x).compile().as_text())
