"""Norm, rotation and gates in the TPU kernel through the real TPU compiler, without a TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aot import devices_of, pairs

from benchmarks.vmem import kernel_vmem
from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.local import Kernel
from ltx_jax.kernels.prologue import Prologue
from ltx_jax.kernels.prologue_attention import attention_with_prologue
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import tile_for
from ltx_jax.parallel.mesh import MeshConfig, make_mesh

# name: (heads, head width, T, S, rotated, gated, length given)
VARIANTS = {
    "video": (1, 128, 6151, 6151, True, False, False),
    "gated": (2, 64, 1411, 126, True, True, True),
    "text": (1, 128, 700, 256, False, True, False),
    "narrow": (4, 32, 300, 700, True, True, False),
    "long": (1, 128, 256, 600_000, True, False, False),  # keys beyond VMEM: prepared by a kernel of their own
}
QUICK = [("v6e:2x2", "video"), ("v5p:2x2x1", "gated")]


def check(chip, variant):
    device = devices_of(chip)[0]
    heads, width, t, s, rotated, gated, limited = VARIANTS[variant]
    mesh, here = jax.sharding.get_abstract_mesh(), jax.sharding.SingleDeviceSharding(device)
    array = lambda shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=here)
    columns = heads * width
    tables = [array((1, n, columns), jnp.float32) if rotated else None for n in (t, s)]
    prologue = Prologue(array((columns,)), array((columns,)), *tables, array((2, t, heads)) if gated else None)
    mask = Mask(length=array((2,), jnp.int32) if limited else None)
    tile = tile_for(device.device_kind)

    def step(q, k, v, mask, prologue):
        call = lambda *a: attention_with_prologue(Kernel("tpu", AttentionSpec(), tile), mesh, *a[:3], mask, a[3])
        out, pull = jax.vjp(call, q, k, v, prologue)
        return out, pull(out)

    q, k = array((2, t, heads, width)), array((2, s, heads, width))
    sizes = kernel_vmem(jax.jit(step).lower(q, k, k, mask, prologue).compile().as_text())
    assert {"tpu_attention_forward", "tpu_attention_prepare", "tpu_attention_pull"} <= set(sizes)
    assert max(sizes.values()) <= tile.vmem
    print(f"{chip} {variant} VMEM bytes: {sizes}")


@pytest.mark.parametrize(("chip", "variant"), pairs(QUICK, VARIANTS))
def test_compiles(chip, variant):
    check(chip, variant)


@pytest.mark.parametrize("axes", [MeshConfig(1, 2, 1, 2), MeshConfig(1, 1, 4, 1)])
def test_prepared_queries_and_keys_stay_out_of_memory(axes):
    """No array of q's size is made between the projections and the kernel, sharded over tensor or over context."""
    mesh = make_mesh(axes, devices_of("v6e:2x2"))
    with jax.set_mesh(mesh):
        x, w = np.zeros((4, 1024, 4, 128), jnp.bfloat16), np.zeros(512, jnp.bfloat16)
        table = np.zeros((1, 1024, 512), np.float32)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (x, x, x, Prologue(w, w, table, table)))
        spec = AttentionSpec(query_tokens="tokens", key_tokens="tokens")
        jaxpr = jax.make_jaxpr(lambda q, k, v, prologue: attention(q, k, v, Mask(), spec, prologue))(*shapes)
    text, sharded = str(jaxpr), axes.context > 1
    assert text.count("name=tpu_attention_prepare") == (2 if sharded else 0)
