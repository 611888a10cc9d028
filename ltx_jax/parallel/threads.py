"""Enough threads for the collectives of CPU devices.

XLA's CPU client has as many threads as devices, or cores where these are more. A collective keeps its thread until all
partners have come, and a device may wait in several at once (weights being gathered beside gradients being summed).
When every thread waits in one of them none is left to join another, and XLA ends the process after a time-out.
"""

import re
from collections.abc import MutableMapping

_COUNT = re.compile(r"--xla_force_host_platform_device_count=(\d+)")
_THREADS = "PJRT_NPROC"  # read by XLA when its CPU client is made
_AT_ONCE = 16  # collectives that one device may wait in


def make_room_for_collectives(environment: MutableMapping[str, str], processes: bool = False) -> None:
    """Ask XLA for 16 threads a CPU device, where several CPU devices work together; a number set already stays.

    environment: `os.environ`, before JAX is asked for devices. processes: whether other processes take part.
    """
    counts = _COUNT.findall(environment.get("XLA_FLAGS", ""))
    devices = int(counts[-1]) if counts else 1
    if devices > 1 or (processes and environment.get("JAX_PLATFORMS") == "cpu"):
        environment.setdefault(_THREADS, str(_AT_ONCE * devices))
