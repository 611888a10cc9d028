"""What ptxas says of a CUDA kernel: registers, spills, serialised wgmma and shared memory, without a card.

The program is compiled for a described card (ltx_jax/planning/topology.py) in a process of its own, for two reasons:
XLA and Mosaic GPU leave their PTX in files only when asked by the environment, and Mosaic GPU keeps a cache for the
life of a process, out of which a kernel comes without any report.
"""

import dataclasses
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
from jax import export

from ltx_jax.errors import UserError
from ltx_jax.planning.topology import Topology, topology

# The custom calls of Pallas kernels. jax.export does not promise to keep them stable; parent and child are one version.
CALLS = ("mosaic_gpu_v2", "mosaic_gpu", "__gpu$xla.gpu.triton", "triton_kernel_call")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """ptxas's report on one entry function.

    spill_bytes: stores of registers that found no room. shared_memory_bytes: static and dynamic, per block.
    """

    name: str
    registers: int
    spill_bytes: int
    serialized: bool
    shared_memory_bytes: int


def compile_report(
    function: Callable[..., Any], args: Sequence[Any], target: Topology | str, sass: Path | None = None
) -> list[dict[str, Any]]:
    """Compiles function(*args) for one card and returns a dict for each of its Pallas kernels, the fields of `Kernel`.

    args: a sequence of pytrees of arrays or ShapeDtypeStructs (any sharding is dropped). target: a CUDA `Topology` or
    its name, such as h100:1. sass: a folder that receives each kernel's instructions where nvdisasm lies beside ptxas.
    Raises UserError where the compilers are not installed, and RuntimeError with the child's last lines where the
    program does not compile.
    """
    target = topology(target) if isinstance(target, str) else target
    if target.platform != "cuda":
        raise UserError(f"'{target.name}' is no CUDA card; ptxas reports on h100, a100 and their kind.")
    leaves, tree = jax.tree.flatten(tuple(args))
    bare = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    flat = lambda *leaves: jax.tree.leaves(function(*tree.unflatten(leaves)))  # plain trees alone can be pickled
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in CALLS]
    exported = export.export(jax.jit(flat), platforms=["cuda"], disabled_checks=checks)(*bare)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        program = (dataclasses.replace(exported, _get_vjp=None), bare, target.name)
        (work / "program.pickle").write_bytes(pickle.dumps(program))
        _run_child(work)
        if sass is not None:
            sass.mkdir(parents=True, exist_ok=True)
            for path in work.glob("*.sass*"):
                path.rename(sass / path.name)
        return [dataclasses.asdict(kernel) for kernel in [*_mosaic(work), *_triton(work)]]


def _run_child(work: Path) -> None:
    place = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    asked = {"MOSAIC_GPU_DUMP_TO": str(work), "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    command, environment = [sys.executable, __file__, str(work)], os.environ | asked | {"PYTHONPATH": place}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError("The kernel does not compile: " + "\n".join(done.stderr.splitlines()[-8:]))


def _compile(folder: str) -> None:
    """The child: compiles the pickled program, whose PTX lands in `folder`."""
    exported, args, name = pickle.loads((Path(folder) / "program.pickle").read_bytes())
    here = jax.sharding.SingleDeviceSharding(topology(name).devices[0])
    placed = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for x in args]
    jax.jit(exported.call).lower(*placed).compile(compiler_options={"xla_dump_to": folder})


def _mosaic(work: Path) -> list[Kernel]:
    """Mosaic GPU writes NAME.ptx with the report NAME.ptxas, and the launch in NAME.mlir-passes.log."""
    kernels = []
    for path in sorted(work.glob("*.ptxas")):
        shared = 0
        with path.with_suffix(".mlir-passes.log").open(errors="replace") as log:
            for line in log:
                if found := re.search(r"dynamic_shared_memory_size %c(\d+)_i32", line):
                    shared = int(found[1])
                    break
        kernels += [dataclasses.replace(kernel, shared_memory_bytes=shared) for kernel in parse(path.read_text())]
    return kernels


def _triton(work: Path) -> list[Kernel]:
    """XLA dumps Triton's PTX with that of its own fusions; the program's custom calls name our kernels."""
    program = "\n".join(path.read_text(errors="replace") for path in work.glob("*gpu_after_optimizations.txt"))
    calls = [line for line in program.splitlines() if 'custom_call_target="__gpu$xla.gpu.triton"' in line]
    ours = {name for line in calls for name in re.findall(r'\bname = "(\w+)"', line)}
    launches = "\n".join(path.read_text() for path in work.glob("*thunk_sequence.txt"))
    shared = dict(re.findall(r"kCustomKernel.*?(\w+) grid:.*shared_memory: (\d+) bytes", launches))
    kernels = []
    for path in sorted(work.glob("module_*.ptx")):
        if any(f".entry {name}" in path.read_text() for name in ours):
            kernels += [
                dataclasses.replace(kernel, shared_memory_bytes=int(shared.get(kernel.name, 0)))
                for kernel in parse(assemble(path))
                if any(kernel.name.startswith(name) for name in ours)  # XLA numbers equal names
            ]
    return kernels


def assemble(ptx: Path) -> str:
    """What `ptxas -v` prints on a PTX file, for the architecture that the file names."""
    found = re.search(r"^\.target (\w+)", ptx.read_text(), re.MULTILINE)
    spec = find_spec("nvidia.cuda_nvcc")
    tools = [Path(place) / "bin" / "ptxas" for place in (spec.submodule_search_locations or ()) if spec] if spec else []
    if not tools or not found:
        raise UserError("ptxas is not installed: pip install '.[plan]'.")
    command = [str(tools[0]), "-v", "-O3", "--gpu-name", found[1], "-o", os.devnull, str(ptx)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ptxas refuses {ptx.name}: {done.stderr[-500:]}")
    return done.stdout + done.stderr


def parse(text: str) -> list[Kernel]:
    """The kernels in the output of `ptxas -v`; shared_memory_bytes counts only what is static."""
    kernels = []
    for part in text.split("Compiling entry function ")[1:]:
        name = re.search(r"'(\w+)'", part)
        spills = re.findall(r"(\d+) bytes spill stores", part)
        registers = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        serialized = bool(name) and bool(re.search(rf"serialized.*{name[1]}", text)) if name else False
        kernels.append(
            Kernel(
                name=name[1] if name else "",
                registers=int(registers[1]) if registers else 0,
                spill_bytes=sum(map(int, spills)),
                serialized=serialized,
                shared_memory_bytes=int(shared[1]) if shared else 0,
            )
        )
    return kernels


if __name__ == "__main__":
    _compile(sys.argv[1])
