"""Neighbourhood attention through the real TPU compiler, at the 2.5 decoder's sizes, without a TPU."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ltx_jax.errors import UserError
from ltx_jax.kernels.neighbourhood import neighbourhood_attention
from ltx_jax.kernels.tpu_neighbourhood_common import VMEM
from ltx_jax.parallel.mesh import AXES
from ltx_jax.planning.topology import topology

CHIPS = ["v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]
# name: (batch, grid, window, heads, dtype), of 121 frames of 512 x 768 with the two ghost frames of the latent
STAGES = {
    "stage 1": (1, (18, 16, 24), (3, 7, 7), 32, jnp.bfloat16),
    "stage 3": (1, (35, 32, 48), (3, 5, 5), 8, jnp.bfloat16),
    "stage 4": (1, (69, 64, 96), (3, 5, 5), 8, jnp.bfloat16),
    "stage 5": (1, (121, 128, 192), (11, 11, 11), 4, jnp.bfloat16),
    "one tile": (1, (80, 80, 80), (11, 11, 11), 4, jnp.bfloat16),
    "long": (2, (505, 272, 480), (11, 11, 11), 32, jnp.bfloat16),  # 2.7e11 elements
    "float32": (1, (21, 37, 30), (11, 11, 11), 4, jnp.float32),
}
QUICK = [("v6e:2x2", "stage 5"), ("v5e:2x2", "stage 4")]
EVERY = [(chip, stage) for chip in CHIPS for stage in STAGES if (chip, stage) not in QUICK]


def compiled_text(chip, stage, sizes=(1, 1, 1, 1)):
    """The compiled front door on a mesh (data, fsdp, context, tensor) of a chip's first devices."""
    batch, grid, window, heads, dtype = STAGES[stage]
    try:
        devices = np.array(topology(chip).devices[: math.prod(sizes)], object).reshape(sizes)
    except UserError as error:
        pytest.skip(str(error))
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    place = NamedSharding(mesh, PartitionSpec("data", None, None, None, "tensor"))
    x = jax.ShapeDtypeStruct((batch, *grid, heads * 64), dtype, sharding=place)  # as the projections make them

    def call(*arrays):
        q, k, v = (x.reshape(*x.shape[:4], heads, 64) for x in arrays)  # (B, T, H, W, N, K)
        return neighbourhood_attention(q, k, v, window).reshape(x.shape)

    with jax.set_mesh(mesh):
        return jax.jit(call, out_shardings=place).lower(x, x, x).compile().as_text()


def vmem(text):
    """Bytes of VMEM of the kernel, as the compiler says."""
    lines = [line for line in text.splitlines() if "tpu_custom_call" in line and "tpu_neighbourhood_forward" in line]
    assert len(lines) == 1
    size = re.search(r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"\d+","size":"(\d+)"', lines[0])
    assert size is not None
    return int(size[1])


def check(chip, stage):
    size = vmem(compiled_text(chip, stage))
    assert size <= VMEM
    print(f"{chip} {stage} VMEM bytes: {size}")


@pytest.mark.parametrize(("chip", "stage"), QUICK)
def test_compiles(chip, stage):
    check(chip, stage)


@pytest.mark.slow
@pytest.mark.parametrize(("chip", "stage"), EVERY)
def test_every_other_pair_compiles(chip, stage):
    check(chip, stage)


@pytest.mark.slow
def test_a_mesh_divides_samples_and_heads_without_transfers():
    text = compiled_text("v6e:2x2", "long", (2, 1, 1, 2))
    assert vmem(text) and not re.search("all-gather|all-to-all|collective-permute|all-reduce", text)
