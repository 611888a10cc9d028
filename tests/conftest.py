"""Every test runs on the CPU; eight faked devices are visible, so that meshes can be tested.

Programs are compiled once for all tests, workers and commands of a run: they share a cache that goes with the run.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Eight devices on few cores may wait long for each other; the default of 40 seconds would end the process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_cpu_collective_call_terminate_timeout_seconds=600",
)
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers of pytest-xdist begin with what is set here
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="ltx_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest

from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.threads import make_room_for_collectives

sys.path.insert(0, str(Path(__file__).parent))  # what tests of several folders share
make_room_for_collectives(os.environ)

# What is marked `quick`: beginnings of the names of tests, one part of the library after the other. `.ci/run` runs them
# on every newer Python; five minutes on two cores, and nothing of the extra `plan`.
QUICK = (
    "test_rng.py",
    "test_cli.py::test_help_helps",
    "test_cli.py::test_sample_refuses_with_one_sentence[--prompt=x --width=50",
    "kernels/test_attention.py",
    "diffusion",
    "checkpoints",
    "media",
    "training/test_modes.py",
    "training/test_noise.py",
    "training/test_step.py",
    "training/test_lora.py",
    "pipelines/test_request.py",
    "pipelines/test_clip.py",
    "pipelines/test_sampler.py::test_clips_have_the_release_sizes",
    "conformance/test_golden.py::test_golden_case_passes[dit/forward",
)
TESTS = Path(__file__).parent
for _entry in QUICK:
    assert (TESTS / _entry.split("::")[0]).exists(), f"tests/{_entry} is to be quick, but there is no such file"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of QUICK."""
    for item in items:
        if item.path.is_relative_to(TESTS) and item.nodeid.removeprefix("tests/").startswith(QUICK):
            item.add_marker(pytest.mark.quick)


@pytest.fixture
def mesh():
    """One CPU device as a mesh, entered."""
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])) as entered:
        yield entered
