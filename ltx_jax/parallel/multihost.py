"""Several processes as one: finding the cluster, what each process holds, and stopping together.

One process drives the devices of its host. All run the same command; `start` joins them before JAX touches a device.
"""

import contextlib
import dataclasses
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from ltx_jax.errors import UserError
from ltx_jax.parallel import rules
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.threads import make_room_for_collectives

WHOLE_AT_ONCE = 1 << 30  # bytes
_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_NUMBERS = ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How the processes of a run meet.

    method: JAX's own way of finding all the rest (None: it tries all it knows). coordinator: HOST:PORT of process 0,
    processes: of the run, process: this one's number from 0; None where the method finds them.
    """

    method: str | None = None
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def find_cluster(environment: Mapping[str, str], coordinator: str = "", processes: int = 0, process: int = -1) -> (
    Cluster | None
):  # fmt: skip
    """The cluster that this process belongs to, or None where it is alone.

    In this order: the arguments (empty, 0, -1: not given) and the variables JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES, JAX_PROCESS_ID, with the process's number also from an indexed Kubernetes job, SLURM or Open MPI;
    SLURM; Open MPI; an indexed Kubernetes job, with the package `kubernetes`; a TPU slice.
    Raises UserError for values that do not belong together.
    """
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS", "")
    if coordinator or processes > 0 or process >= 0:
        count = processes if processes > 0 else _first_number(environment, _COUNTS)
        number = process if process >= 0 else _first_number(environment, _NUMBERS)
        return _explicit(coordinator, count, number)
    if "SLURM_STEP_NODELIST" in environment and (_first_number(environment, ("SLURM_NTASKS",)) or 1) > 1:
        return Cluster("slurm")
    if (_first_number(environment, ("OMPI_COMM_WORLD_SIZE",)) or 1) > 1:
        if "OMPI_MCA_orte_hnp_uri" not in environment:
            raise UserError(
                "This Open MPI does not say where its first process runs: "
                "add -x JAX_COORDINATOR_ADDRESS=HOST:PORT to mpirun."
            )
        return Cluster("ompi")
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment) and _installed("kubernetes"):
        return Cluster("k8s")
    if len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        return Cluster()
    return None


def _explicit(coordinator: str, count: int | None, number: int | None) -> Cluster:
    if not coordinator or count is None or number is None:
        missing = {"coordinator": coordinator, "processes": count is not None, "process_id": number is not None}
        named = ", ".join(f"--{name}" for name, there in missing.items() if not there)
        raise UserError(f"Several processes need --coordinator, --processes and --process_id; missing: {named}.")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"The coordinator must be HOST:PORT, not '{coordinator}'.")
    if not 0 <= number < count:
        raise UserError(f"The process number must lie in 0..{count - 1}, not {number}.")
    return Cluster(None, coordinator, count, number)


def _first_number(environment: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    return next((int(environment[n]) for n in names if environment.get(n, "").isdigit()), None)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def start(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Join the other processes of this run, where there are any. To be called before JAX is asked for devices.

    Raises UserError as `find_cluster`, and when the processes do not meet.
    """
    if jax.distributed.is_initialized():
        return
    cluster = find_cluster(os.environ, coordinator, processes, process)
    if cluster is None and not _on_tpu_host():
        return
    make_room_for_collectives(os.environ, processes=True)
    found = cluster or Cluster()
    arguments: dict[str, Any] = {"coordinator_address": found.coordinator, "num_processes": found.processes}
    try:
        jax.distributed.initialize(**arguments, process_id=found.process, cluster_detection_method=found.method)
    except (RuntimeError, ValueError) as error:
        if cluster is None:
            return  # a TPU machine without a pod's metadata: one host
        raise UserError(f"The processes of this run did not meet ({str(error).splitlines()[0]}).") from error


def _on_tpu_host() -> bool:
    """Whether this machine may be a host of a TPU pod that only the metadata server knows."""
    wanted = os.environ.get("JAX_PLATFORMS", "tpu")
    local = "TPU_SKIP_MDS_QUERY" in os.environ or "tpu" not in wanted
    return not local and _installed("libtpu") and (Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists())


def is_first() -> bool:
    """Whether this process is the one that writes what is written once: logs, samples, finished models."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """A line on stderr, of the first process alone."""
    if is_first():
        print(text, file=sys.stderr, flush=True)


def barrier(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def first_decides(work: Callable[[], Any]) -> None:
    """`work` in the first process alone. Where it raises a UserError there, all processes raise one."""
    error = None
    try:
        if is_first():
            work()
    except UserError as caught:
        error = caught
    if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.int32(error is not None)) and error is None:
        error = UserError("The first process of this run cannot go on; it says why.")
    if error is not None:
        raise error


def to_host(tree: Any) -> Any:
    """The arrays of `tree` whole, as NumPy arrays, on every process. All processes must call it."""
    return jax.device_get(tree) if jax.process_count() == 1 else jax.tree.map(_whole, tree)


def _whole(x: Any) -> np.ndarray:
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    if x.nbytes > WHOLE_AT_ONCE and x.ndim > 1:  # gathering goes through the devices' memory
        return np.stack([_whole(x[i]) for i in range(x.shape[0])])
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def local_mesh(mesh: Mesh, *, spread: bool = False) -> Mesh:
    """`mesh`, or with several processes one device of this one: for what a process does on its own.

    spread: all devices of this process, over which weights that are too many for one are divided.
    """
    if jax.process_count() == 1:
        return mesh
    devices = jax.local_devices()
    return make_mesh(MeshConfig(data=1, fsdp=-1), devices) if spread else make_mesh(devices=devices[:1])


def batch_share(mesh: Mesh, batch: int) -> tuple[int, int]:
    """Which share of a global batch this process reads: (number of the share, number of shares).

    Processes whose devices hold the same samples (they differ in context or tensor) read the same share. Raises
    UserError when the samples of this process's devices are no such share.
    """
    if jax.process_count() == 1:
        return 0, 1
    sharding = NamedSharding(mesh, rules.spec(("batch",), (batch,), mesh))
    here = [s for d, (s,) in sharding.devices_indices_map((batch,)).items() if d.process_index == jax.process_index()]
    rows = sorted({(s.start or 0, batch if s.stop is None else s.stop) for s in here})
    first, last = rows[0][0], rows[-1][1]
    size = sum(stop - begin for begin, stop in rows)
    if size != last - first or first % size or batch % size:
        raise UserError(
            f"The mesh spreads the batch of {batch} unevenly over the processes (this one holds {rows}); make data x "
            "fsdp a multiple of the number of processes."
        )
    return first // size, batch // size


@contextlib.contextmanager
def termination() -> Iterator[Callable[[int], bool]]:
    """Within, SIGTERM only sets what the yielded function of the step returns: whether to stop after that step.

    Several processes agree on the step, whichever got the signal; each must ask once for every step. Off the main
    thread nothing is installed.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    received: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    except ValueError:
        yield lambda step: False
        return
    try:
        yield lambda step: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
