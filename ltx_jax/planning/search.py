"""Search: the same plan over meshes, batches and remat policies, ranked."""

import dataclasses
import itertools
from collections.abc import Iterator

from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment
from ltx_jax.models.dit.transformer import REMAT_POLICIES
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.planning.meshes import candidates
from ltx_jax.planning.plan import Report, plan
from ltx_jax.planning.topology import Topology
from ltx_jax.planning.workload import Workload


@dataclasses.dataclass(frozen=True)
class Trial:
    """One point of a search and its answer. samples: per step of all devices."""

    mesh: MeshConfig
    samples: int
    remat: str
    report: Report

    @property
    def speed(self) -> float:
        """Samples per second of the roofline with transfers overlapped; 0 where it does not fit."""
        line = self.report.roofline
        return self.samples / line.overlapped_s if self.report.fits and line else 0.0


def search(experiment: Experiment, workload: Workload, target: Topology, limit: int) -> Iterator[Trial]:
    """At most `limit` trials: meshes first, then samples per batch shard, then remat policies, least memory first.

    A point that needs more memory than one which did not fit, on the same mesh, is left out.
    """
    count = 0
    meshes = candidates(len(target.devices), workload, experiment.model)
    if experiment.mesh != MeshConfig():
        meshes = [experiment.mesh]
    policies = _policies(experiment, workload)
    failed: set[tuple[MeshConfig, str]] = set()
    for (batch, remat), config in itertools.product(itertools.product((1, 2, 4), policies), meshes):
        if count == limit:
            return
        if (config, remat) in failed:
            continue
        mesh = make_mesh(config, target.devices)
        size = batch * mesh.shape["data"] * mesh.shape["fsdp"]
        try:
            report = plan(_with_remat(experiment, remat), dataclasses.replace(workload, batch=size), target, mesh)
        except UserError:
            continue  # a mesh that this model's sizes do not allow
        count += 1
        if not report.fits:
            failed |= {(config, policy) for policy in policies[policies.index(remat) :]}
        yield Trial(config, size, remat, report)


def ranked(trials: list[Trial]) -> list[Trial]:
    """The fastest first; those that do not fit last."""
    return sorted(trials, key=lambda t: (-t.speed, t.report.memory_per_chip))


def _policies(experiment: Experiment, workload: Workload) -> list[str]:
    """Remat policies from the least memory to the most."""
    if workload.mode != "train":
        return [experiment.training.dit.remat]
    order = ["offload", "full", "dots", "none"]
    return [name for name in order if name in REMAT_POLICIES]


def _with_remat(experiment: Experiment, remat: str) -> Experiment:
    stage = dataclasses.replace(experiment.training.dit, remat=remat)
    return dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, dit=stage))


def as_table(trials: list[Trial]) -> str:
    """One line per trial, the best first."""
    lines = [
        f"{'mesh (data, fsdp, context, tensor)':<36}{'batch':>6}  {'remat':<8}{'GiB':>8}  {'fits':<5}{'s':>8}{'MFU':>7}"
    ]
    for trial in ranked(trials):
        report = trial.report
        sizes = ", ".join(str(n) for n in report.mesh.values())
        seconds = f"{report.roofline.overlapped_s:.3g}" if report.roofline else "-"
        mfu = f"{report.mfu:.0%}" if report.mfu else "-"
        memory = report.memory_per_chip / (1 << 30)
        fits = "yes" if report.fits else "no"
        lines.append(f"{sizes:<36}{trial.samples:>6}  {trial.remat:<8}{memory:>8.2f}  {fits:<5}{seconds:>8}{mfu:>7}")
    return "\n".join(lines)
