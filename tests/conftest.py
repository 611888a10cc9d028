"""Every test runs on the CPU; eight faked devices are visible, so that meshes can be tested."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Eight devices on few cores may wait long for each other; the default of 40 seconds would end the process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_cpu_collective_call_terminate_timeout_seconds=600",
)
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import pytest

from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.threads import make_room_for_collectives

make_room_for_collectives(os.environ)


@pytest.fixture
def mesh():
    """One CPU device as a mesh, entered."""
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])) as entered:
        yield entered
