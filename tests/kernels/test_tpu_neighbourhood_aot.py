"""Neighbourhood attention through the real TPU compiler, at the 2.5 decoder's sizes, without a TPU."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aot import CHIPS, devices_of, pairs
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks.vmem import kernel_vmem
from ltx_jax.kernels.neighbourhood import neighbourhood_attention
from ltx_jax.kernels.tpu_neighbourhood_common import VMEM
from ltx_jax.parallel.mesh import AXES

# name: (batch, grid, window, heads, dtype), of 121 frames of 512 x 768 with the two ghost frames of the latent
CASES = {
    "stage 1": (1, (18, 16, 24), (3, 7, 7), 32, jnp.bfloat16),
    "stage 3": (1, (35, 32, 48), (3, 5, 5), 8, jnp.bfloat16),
    "stage 4": (1, (69, 64, 96), (3, 5, 5), 8, jnp.bfloat16),
    "stage 5": (1, (121, 128, 192), (11, 11, 11), 4, jnp.bfloat16),
    "one tile": (1, (80, 80, 80), (11, 11, 11), 4, jnp.bfloat16),
    "pair": (2, (60, 80, 80), (11, 11, 11), 4, jnp.bfloat16),
    "float32": (1, (21, 37, 30), (11, 11, 11), 4, jnp.float32),
}
QUICK = [("v6e:2x2", "stage 5"), ("v5e:2x2", "stage 4")]
LONG = (1, (505, 136, 240), (11, 11, 11), 8, jnp.bfloat16)


def compiled(chip, case, sizes=(1, 1, 1, 1), gradients=False):
    """The front door, compiled, on a mesh (data, fsdp, context, tensor) of a chip's first devices."""
    batch, grid, window, heads, dtype = case
    devices = np.array(devices_of(chip)[: math.prod(sizes)], object).reshape(sizes)
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    place = NamedSharding(mesh, PartitionSpec("data", None, None, None, "tensor"))
    x = jax.ShapeDtypeStruct((batch, *grid, heads * 64), dtype, sharding=place)  # as the projections make them

    def call(*arrays):
        q, k, v = (x.reshape(*x.shape[:4], heads, 64) for x in arrays)  # (B, T, H, W, N, K)
        return neighbourhood_attention(q, k, v, window).reshape(x.shape)

    def step(*arrays):
        out, pull = jax.vjp(call, *arrays)
        return out, pull(out)

    with jax.set_mesh(mesh):
        return jax.jit(step if gradients else call, out_shardings=place).lower(x, x, x).compile()


def check(chip, stage, gradients=False):
    found = compiled(chip, CASES[stage], gradients=gradients)
    if gradients and chip.startswith("tpu7x"):
        return  # that it compiles is all: XLA cannot read this program back (an async-update of two operands)
    sizes = kernel_vmem(found.as_text())
    assert set(sizes) == {"tpu_neighbourhood_forward"} | ({"tpu_neighbourhood_backward"} if gradients else set())
    assert max(sizes.values()) <= VMEM
    print(f"{chip} {stage} VMEM bytes: {sizes}")


@pytest.mark.parametrize(("chip", "stage"), pairs(QUICK, CASES))
def test_compiles(chip, stage):
    check(chip, stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage 3", "one tile", "float32"])
@pytest.mark.parametrize("chip", CHIPS)
def test_gradients_compile(chip, stage):
    check(chip, stage, gradients=True)


@pytest.mark.slow
def test_more_elements_than_32_bits_count():
    assert kernel_vmem(compiled("v5p:2x2x1", LONG).as_text())  # 8.4e9 elements an array


@pytest.mark.slow
def test_a_mesh_divides_samples_and_heads_without_transfers():
    text = compiled("v6e:2x2", CASES["pair"], (2, 1, 1, 2)).as_text()
    assert kernel_vmem(text) and not re.search("all-gather|all-to-all|collective-permute|all-reduce", text)
