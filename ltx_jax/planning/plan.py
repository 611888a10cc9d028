"""A plan: the real programs, compiled by the real compiler for hardware that is not here, and what it says of them."""

import dataclasses
import math
import re
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ltx_jax.experiment import Experiment
from ltx_jax.parallel.chips import GIB
from ltx_jax.parallel.program import Program
from ltx_jax.planning import buffers, hlo
from ltx_jax.planning.roofline import Roofline, roofline
from ltx_jax.planning.topology import Topology
from ltx_jax.planning.traffic import Collective, Totals, totals
from ltx_jax.planning.workload import Workload, make_programs, model_flops, program_flops
from ltx_jax.training.state import TrainState

USABLE = 0.975  # of a TPU's data sheet memory; measured on v6e: 31.2 of 32 GB
HOST = ("pinned_host", "unpinned_host")


@dataclasses.dataclass(frozen=True)
class Report:
    """What the compiler says; bytes and FLOPs of one device unless said otherwise.

    memory_by_kind: at the peak, of the program that needs most; "host" is beside it, in the host's memory.
    flops_per_step: of all devices, what the mathematics needs (no recomputation). executed_flops: of one device, all
    that runs. roofline: of the whole program (every step of a sampling loop). replicated: the largest array that every
    device holds whole, as (name, bytes), among the arguments and among all that the program makes on its way.
    problem: why it does not fit, in the compiler's words.
    """

    topology: str
    platform: str
    mode: str
    mesh: dict[str, int]
    fits: bool
    memory_by_kind: dict[str, float]
    host: float
    hbm_per_chip: float
    parameters: float
    flops_per_step: float
    executed_flops: float
    bytes: float
    roofline: Roofline | None
    mfu: float | None
    collectives: dict[Collective, float]
    counts: dict[Collective, float]
    compile_s: float
    replicated_parameter: tuple[str, float]
    replicated_activation: tuple[str, float]
    problem: str | None = None

    @property
    def memory_per_chip(self) -> float:
        """All that is alive at the peak in device memory."""
        return sum(self.memory_by_kind.values())


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """One program's answer. module: None when it did not fit."""

    kinds: dict[str, float]
    host: float
    module: hlo.Module | None
    seconds: float
    problem: str | None = None


def plan(experiment: Experiment, workload: Workload, target: Topology, mesh: Mesh) -> Report:
    """Compile the workload's programs for the topology and read the answer. Not fitting is an answer too."""
    found = make_programs(experiment, workload, mesh)
    answers = {name: _compile(program) for name, program in found.items()}
    done, devices = Totals(), list(mesh.devices.flat)
    line: Roofline | None = Roofline(0.0, 0.0, 0.0)
    for name, program in found.items():
        module = answers[name].module
        if module is None:
            line = None
            continue
        part = totals(module, mesh.size, workload.trips)
        if target.platform != "tpu":  # its matrix products hide in library calls and kernels
            part.flops = program_flops(program, workload.trips) / mesh.size
        done.add(part)
        line = None if line is None else line + roofline(part, part.flops, target, devices)
    wanted = model_flops(experiment, workload, mesh)
    largest = max(answers.values(), key=lambda a: sum(a.kinds.values()))
    problem = next((a.problem for a in answers.values() if a.problem), None)
    usable = target.chip.hbm * (USABLE if target.platform == "tpu" else 1.0)
    peak = target.chip.flops * mesh.size
    return Report(
        topology=target.name,
        platform=target.platform,
        mode=workload.mode,
        mesh=dict(mesh.shape),
        fits=problem is None and sum(largest.kinds.values()) <= usable,
        memory_by_kind=largest.kinds,
        host=largest.host,
        hbm_per_chip=target.chip.hbm,
        parameters=float(sum(math.prod(x.shape) for p in found.values() for x in jax.tree.leaves(weights(p)))),
        flops_per_step=wanted,
        executed_flops=done.flops,
        bytes=done.bytes,
        roofline=line,
        mfu=wanted * workload.trips / (line.overlapped_s * peak) if line and line.overlapped_s else None,
        collectives=done.collectives,
        counts=done.counts,
        compile_s=sum(a.seconds for a in answers.values()),
        replicated_parameter=_worst(buffers.largest_replicated(program) for program in found.values()),
        replicated_activation=_worst(
            buffers.largest_whole(program, answers[name].module) for name, program in found.items()
        ),
        problem=problem,
    )


def _worst(items: Any) -> tuple[str, float]:
    return max(items, key=lambda item: item[1], default=("", 0.0))


def weights(program: Program) -> Any:
    """The trained parameters of a training step, or the weights of another program."""
    state = program.arguments.get("state")
    if isinstance(state, TrainState):
        return state.params
    return [program.arguments[name] for name in program.weights]


def _compile(program: Program) -> _Compiled:
    start = time.monotonic()
    kinds, host = _arguments(program)
    try:
        compiled = program.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sentence, needed = _exhausted(str(error))
        kinds["temporaries"] = max(0.0, needed - sum(kinds.values()))
        return _Compiled(kinds, host, None, time.monotonic() - start, sentence)
    seconds = time.monotonic() - start
    stats: Any = compiled.memory_analysis()
    module = hlo.parse(compiled.as_text() or "")
    saved = buffers.stacks(program, module)
    rest = max(0.0, float(stats.temp_size_in_bytes) - sum(saved.values()))
    kinds |= saved | {
        "temporaries": rest,
        "outputs": float(max(0, stats.output_size_in_bytes - stats.alias_size_in_bytes)),
        "code": float(stats.generated_code_size_in_bytes),
    }
    return _Compiled(kinds, host, module, seconds)


def _arguments(program: Program) -> tuple[dict[str, float], float]:
    """Bytes per device of the arguments by kind, and of those that lie in the host's memory."""
    given = dict(program.arguments)
    kinds = {"parameters": weights(program)}
    if isinstance(given.get("state"), TrainState):
        state, frozen = given.pop("state"), dict(given.pop("frozen"))
        kinds |= {
            "optimizer": state.opt_state, "moving average": state.ema, "frozen parameters": frozen.pop("params", None),
        }  # fmt: skip
        given["tables"] = frozen
    kinds["inputs"] = [tree for name, tree in given.items() if name not in program.weights]
    leaves = {name: jax.tree.leaves(tree) for name, tree in kinds.items()}
    device = {n: float(sum(_local(x) for x in xs if x.sharding.memory_kind not in HOST)) for n, xs in leaves.items()}
    host = sum(_local(x) for xs in leaves.values() for x in xs if x.sharding.memory_kind in HOST)
    return {name: size for name, size in device.items() if size}, float(host)


def _local(x: Any) -> float:
    return float(math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize)


def _exhausted(text: str) -> tuple[str, float]:
    """The compiler's sentence about memory, and the bytes it would need."""
    found = re.search(r"[Uu]sed ([\d.]+)([GM]) of ([\d.]+)([GM])", text)
    if not found:
        return text.splitlines()[0][:200], math.inf
    scale = {"G": GIB, "M": 1 << 20}
    return f"needs {found[1]}{found[2]} of {found[3]}{found[4]}", float(found[1]) * scale[found[2]]
