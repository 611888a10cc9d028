"""The TPU attention kernels through the real TPU compiler, without a TPU: every variant for every generation."""

import re

import jax
import jax.numpy as jnp
import pytest

from ltx_jax.errors import UserError
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import tile_for
from ltx_jax.kernels.tpu import tpu_attention_with_statistics
from ltx_jax.planning.topology import topology

CHIPS = ["v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]
# name: (heads, head width, T, S, dtype, masks, causal)
VARIANTS = {
    "video": (2, 128, 2048, 2048, jnp.bfloat16, "", False),
    "audio": (2, 64, 1000, 1411, jnp.bfloat16, "length", False),
    "text": (1, 128, 126, 300, jnp.bfloat16, "length keep", False),
    "bias": (2, 64, 700, 300, jnp.bfloat16, "bias", False),
    "float32": (1, 128, 300, 700, jnp.float32, "row", True),
}


def compile_for(chip, variant, two_kernels=False):
    """The compiled forward and backward of one variant at its default tile."""
    import dataclasses

    try:
        device = topology(chip).devices[0]
    except UserError as error:
        pytest.skip(str(error))
    heads, width, t, s, dtype, masks, causal = VARIANTS[variant]
    here = jax.sharding.SingleDeviceSharding(device)
    array = lambda shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=here)
    mask = Mask(
        length=array((2,), jnp.int32) if "length" in masks else None,
        keep=array((2, s), jnp.bool_) if "keep" in masks else None,
        bias=array((2, 1, 1 if masks == "row" else t, s), jnp.float32) if masks in ("bias", "row") else None,
    )
    tile = tile_for(device.device_kind)
    tile = dataclasses.replace(tile, resident=0) if two_kernels else tile
    spec = AttentionSpec(causal=causal, window=200 if causal else None)

    def step(q, k, v, mask):
        results, pull = jax.vjp(lambda *a: tpu_attention_with_statistics(*a, mask, spec, tile=tile), q, k, v)
        return results, pull(results)

    q, k = array((2, t, heads, width)), array((2, s, heads, width))
    return jax.jit(step).lower(q, k, k, mask).compile()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("chip", CHIPS)
def test_compiles(chip, variant):
    text = compile_for(chip, variant).as_text()
    kernels = set(re.findall(r"tpu_attention_\w+", text))
    assert {"tpu_attention_forward", "tpu_attention_backward"} <= kernels


@pytest.mark.parametrize("chip", CHIPS)
def test_long_sequences_use_two_backward_kernels(chip):
    text = compile_for(chip, "audio", two_kernels=True).as_text()
    assert "tpu_attention_backward_keys" in text and "tpu_attention_backward_queries" in text
