"""Every test runs on the CPU; eight faked devices are visible, so that meshes can be tested."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import pytest

from ltx_jax.parallel.mesh import MeshConfig, make_mesh


@pytest.fixture
def mesh():
    """One CPU device as a mesh, entered."""
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])) as entered:
        yield entered
