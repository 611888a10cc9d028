"""A plan: the real program, compiled by the real compiler for hardware that is not here, and what the compiler says.

What is compiled is what `train.py` runs: the same `make_dit_program`, on a mesh of described devices. This is the
planner's first form: one program, one compile.
"""

import dataclasses
import math
import re
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.experiment import Experiment
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import Program
from ltx_jax.planning.topology import GIB, Topology
from ltx_jax.training.config import DiTStage
from ltx_jax.training.dit import make_dit_program

USABLE = 0.975  # of a TPU's data sheet memory; measured on v6e: 31.2 of 32 GB


@dataclasses.dataclass(frozen=True)
class Report:
    """What the compiler says. Bytes are per chip; problem: why it does not fit, in the compiler's words."""

    topology: str
    mesh: dict[str, int]
    fits: bool
    memory_by_kind: dict[str, float]
    hbm_per_chip: float
    compile_s: float
    largest_replicated: tuple[str, float]
    parameters: float
    problem: str | None = None

    @property
    def memory_per_chip(self) -> float:
        """All that is alive at the peak."""
        return sum(self.memory_by_kind.values())


def choose_mesh(config: MeshConfig, topology: Topology) -> Mesh:
    """The config's mesh over the topology; a config that leaves every axis at its default shards over fsdp alone."""
    if config == MeshConfig():
        config = MeshConfig(data=1, fsdp=-1)
    return make_mesh(config, topology.devices)


def training_program(experiment: Experiment, mesh: Mesh, shape: VideoShape, batch: int | None = None) -> Program:
    """The transformer's training step at full scale: text features given, one sample per batch shard unless `batch`."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    stage: DiTStage = dataclasses.replace(experiment.training.dit, batch_size=batch or shards)
    return make_dit_program(experiment.model, stage, shape, mesh, experiment.training.seed)


def plan(program: Program, topology: Topology) -> Report:
    """Compile `program` for the topology and read the answer. Not fitting is an answer too."""
    start = time.monotonic()
    problem, kinds = None, _argument_kinds(program)
    try:
        stats = program.compile().memory_analysis()
        kinds["temporaries"] = float(stats.temp_size_in_bytes)
        kinds["outputs"] = float(max(0, stats.output_size_in_bytes - stats.alias_size_in_bytes))
        kinds["code"] = float(stats.generated_code_size_in_bytes)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        problem = _exhausted(str(error))
        kinds["temporaries"] = max(0.0, problem[1] - sum(kinds.values()))
    usable = topology.chip.hbm * (USABLE if topology.platform == "tpu" else 1.0)
    return Report(
        topology=topology.name,
        mesh=dict(program.mesh.shape),
        fits=problem is None and sum(kinds.values()) <= usable,
        memory_by_kind=kinds,
        hbm_per_chip=topology.chip.hbm,
        compile_s=time.monotonic() - start,
        largest_replicated=largest_replicated(program),
        parameters=float(sum(math.prod(x.shape) for x in jax.tree.leaves(program.abstract_args[0].params))),
        problem=problem[0] if problem else None,
    )


def largest_replicated(program: Program) -> tuple[str, float]:
    """The largest argument that every device holds whole: its name and bytes; ("", 0) on one device."""
    if program.mesh.size == 1:
        return ("", 0.0)
    leaves = jax.tree_util.tree_leaves_with_path(program.abstract_args)
    whole = [(jax.tree_util.keystr(p), _bytes(x)) for p, x in leaves if x.sharding.is_fully_replicated]
    return max(whole, key=lambda item: item[1], default=("", 0.0))


def _argument_kinds(program: Program) -> dict[str, float]:
    """Bytes per device of the state (by field) and of the other arguments."""
    state, *rest = program.abstract_args
    fields = {"parameters": state.params, "optimizer": state.opt_state, "moving average": state.ema, "inputs": rest}
    return {name: float(sum(_local_bytes(x) for x in jax.tree.leaves(tree))) for name, tree in fields.items() if tree}


def _bytes(x: Any) -> float:
    return float(math.prod(x.shape) * np.dtype(x.dtype).itemsize)


def _local_bytes(x: Any) -> float:
    return float(math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize)


def _exhausted(text: str) -> tuple[str, float]:
    """The compiler's sentence about memory, and the bytes it would need."""
    found = re.search(r"[Uu]sed ([\d.]+)([GM]) of ([\d.]+)([GM])", text)
    if not found:
        return text.splitlines()[0][:200], math.inf
    scale = {"G": GIB, "M": 1 << 20}
    return f"needs {found[1]}{found[2]} of {found[3]}{found[4]}", float(found[1]) * scale[found[2]]
