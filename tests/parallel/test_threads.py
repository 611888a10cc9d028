"""CPU devices that work together get threads enough to wait in several collectives at once."""

import os
import subprocess
import sys

import pytest

from ltx_jax.parallel.threads import make_room_for_collectives

COUNT = "--xla_force_host_platform_device_count"
COUNT_THREADS = """
import os
from ltx_jax.parallel.threads import make_room_for_collectives
make_room_for_collectives(os.environ)
import jax, jax.numpy as jnp
devices = jax.devices()
jnp.ones(3).sum().block_until_ready()
print(len(devices), len(os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize(
    ("environment", "processes", "threads"),
    [
        ({}, False, None),
        ({"JAX_PLATFORMS": "cpu"}, False, None),
        ({"JAX_PLATFORMS": "cpu"}, True, "16"),
        ({"JAX_PLATFORMS": "cuda"}, True, None),
        ({"XLA_FLAGS": f"{COUNT}=8"}, False, "128"),
        ({"XLA_FLAGS": f"{COUNT}=8 --other=1 {COUNT}=2"}, True, "32"),
        ({"XLA_FLAGS": f"{COUNT}=1"}, False, None),
        ({"XLA_FLAGS": f"{COUNT}=8", "PJRT_NPROC": "9"}, False, "9"),
    ],
)
def test_threads_follow_the_devices(environment, processes, threads):
    make_room_for_collectives(environment, processes)
    assert environment.get("PJRT_NPROC") == threads


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc: threads cannot be counted")
def test_xla_makes_the_threads_that_it_is_asked_for():
    environment = {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"}
    environment |= {"XLA_FLAGS": f"{COUNT}=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", COUNT_THREADS], env=environment, capture_output=True, text=True)
    devices, threads = map(int, done.stdout.split())
    assert devices == 4 and threads >= 64, done.stderr
