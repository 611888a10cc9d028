"""The Hopper kernels through the real compilers, without a card: no spill, no serialised wgmma at any default tile."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.ptxas import compile_report
from ltx_jax.errors import UserError
from ltx_jax.kernels.gpu_hopper import hopper_attention
from ltx_jax.kernels.spec import AttentionSpec, Mask

SHARED = 227 * 1024  # bytes that a block of an H100 may have
# name: (heads, head width, T, S, dtype, masks)
VARIANTS = {
    "video": (2, 128, 16411, 16411, jnp.bfloat16, ""),
    "audio": (2, 64, 126, 1411, jnp.bfloat16, ""),
    "length": (2, 128, 700, 16411, jnp.bfloat16, "length"),
    "audio_length": (2, 64, 700, 126, jnp.bfloat16, "length"),
    "text": (2, 128, 700, 256, jnp.bfloat16, "length keep"),
    "audio_text": (2, 64, 700, 256, jnp.bfloat16, "keep"),
    "float16": (2, 128, 1024, 1024, jnp.float16, ""),
    "audio_float16": (2, 64, 1024, 1024, jnp.float16, ""),
    "long": (32, 128, 514080, 514080, jnp.bfloat16, ""),  # 2 x 2.1e9 elements an array
}
QUICK = ["video", "audio", "text"]
KERNELS = {"hopper_attention_forward", "hopper_attention_dq", "hopper_attention_dkv"}


def step(mask, q, k, v):
    """The output, the statistics and all gradients."""
    call = lambda *a: hopper_attention(*a, mask, AttentionSpec())
    results, pull = jax.vjp(call, q, k, v)
    return results, pull(results)


def check(variant):
    heads, width, t, s, dtype, masks = VARIANTS[variant]
    array = lambda shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype)
    length = array((2,), jnp.int32) if "length" in masks else None
    keep = array((2, s), jnp.bool_) if "keep" in masks else None
    q, k = array((2, t, heads, width)), array((2, s, heads, width))
    call = lambda length, keep, *a: step(Mask(length=length, keep=keep), *a)
    try:
        report = compile_report(call, (length, keep, q, k, k), "h100")
    except UserError as error:
        pytest.skip(str(error))
    print(variant, report)
    assert {kernel["name"].removesuffix("_mosaic_gpu_kernel") for kernel in report} == KERNELS
    for kernel in report:
        assert kernel["spill_bytes"] == 0, kernel
        assert not kernel["serialized"], kernel
        assert 0 < kernel["registers"] <= 168, kernel  # at launch; the compute threads take more from the other
        assert 0 < kernel["shared_memory_bytes"] <= SHARED, kernel


@pytest.mark.parametrize("variant", QUICK)
def test_compiles_without_spills(variant):
    check(variant)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in QUICK])
def test_every_other_variant(variant):
    check(variant)
