"""What the compilers say of our attention kernels for a device that is not here: one row per kernel and tile."""

import dataclasses
import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from attention_kernels import all_tiles, default_tile, families, ours
from ptxas import compile_report
from vmem import kernel_vmem

from ltx_jax.errors import UserError
from ltx_jax.kernels.tpu_neighbourhood import tpu_neighbourhood_attention
from ltx_jax.kernels.tpu_neighbourhood_cut import Cut, queries_for
from ltx_jax.planning.topology import Topology, topology

WIDTHS = (64, 128)
DTYPE = jnp.bfloat16
STAGE_5 = ((80, 80, 80), (11, 11, 11))  # the smallest tile, and the window, where the 2.5 decoder spends its time
SMALLEST = {"v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2", "tpu7x": "2x2x1"}  # slices, of which one device is taken
# Parts of the names of kernels -> what a row says.
PARTS = {
    "backward_keys": "backward dk, dv", "dkv": "backward dk, dv", "backward_queries": "backward dq",
    "dq": "backward dq", "backward": "backward", "forward": "forward",
}  # fmt: skip


def rows(name: str, tokens: int, every_tile: bool) -> Iterator[dict[str, Any]]:
    """A row per kernel (forward and backward, head widths 64 and 128) of chip `name`, such as v6e or h100.

    tokens: length of queries and keys. Raises UserError for an unknown chip or a compiler that is not installed.
    """
    size = SMALLEST.get(name)
    if not size:
        yield from _attention_rows(topology(name), tokens, every_tile, _cuda)
        return
    with tempfile.TemporaryDirectory() as folder:
        _dump_bundles(folder)
        target = topology(f"{name}:{size}")
        ask = functools.partial(_tpu, target, Path(folder))
        call = lambda target, family, tile, x: ask(_step(family, tile), x)
        yield from _attention_rows(target, tokens, every_tile, call)
        yield from _neighbourhood_rows(target, ask)


def _attention_rows(target: Topology, tokens: int, every_tile: bool, compiled: Callable[..., Any]) -> Iterator[Any]:
    """compiled(target, family, tile, x): rows of one call."""
    device = target.devices[0]
    for width in WIDTHS:
        x = jax.ShapeDtypeStruct((2, tokens, 2, width), DTYPE)
        for family in families(device.platform, device.device_kind):
            default = [default_tile(family, device.device_kind, width, DTYPE)]
            for tile in all_tiles(family, device.device_kind, width, DTYPE) if every_tile else default:
                try:
                    found = compiled(target, family, tile, x)
                except UserError:
                    raise
                except Exception as error:  # a candidate may be too large for the device: that is what was asked
                    if tile == default[0]:
                        raise
                    found = [{"part": "forward and backward", "problem": str(error).splitlines()[0][:200]}]
                for row in found:
                    variant = f"{family} {row.pop('part')} {width}"
                    yield {"variant": variant, "tile": dataclasses.asdict(tile), **row}


def _step(family: str, tile: Any) -> Any:
    return _both(ours(family, tile))


def _both(attend: Any) -> Any:
    """Forward and backward in one program."""

    def step(q: Any, k: Any, v: Any) -> Any:
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(out)

    return step


def _part(kernel: str) -> str:
    return next((text for part, text in PARTS.items() if re.search(rf"{part}(_|$|\b)", kernel)), kernel)


def _cuda(target: Topology, family: str, tile: Any, x: Any) -> list[dict[str, Any]]:
    """Rows of ptxas; XLA's own fusions are left out."""
    report = [kernel for kernel in compile_report(_step(family, tile), (x, x, x), target) if family in kernel["name"]]
    return [{"part": _part(kernel.pop("name")), **kernel} for kernel in report]


def _neighbourhood_rows(target: Topology, ask: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Rows of the decoder's neighbourhood attention, whose block of queries follows from grid and window."""
    (grid, window), head = STAGE_5, 64
    queries = queries_for(target.devices[0].device_kind)
    cut = Cut.best(grid, window, head, queries)
    assert cut is not None
    attend = lambda q, k, v: tpu_neighbourhood_attention(q, k, v, window, head**-0.5, queries=queries)
    for row in ask(_both(attend), jax.ShapeDtypeStruct((1, *grid, 4, head), DTYPE)):
        variant = f"tpu neighbourhood {row.pop('part')} {head}"
        yield {"variant": variant, "tile": {"queries": queries, "block": cut.block}, **row}


def _dump_bundles(folder: str) -> None:
    """Ask libtpu, which is not loaded yet, to write the schedule of every program."""
    flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
    flags += " --xla_jf_dump_llo_pass_label_regex=.*final_bundles"
    os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {flags}".strip()


def _bundles(folder: Path) -> dict[str, int]:
    """Instruction bundles by kernel, of the schedules written since the last call; empty where none are."""
    found = {}
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        name = re.search(r"(tpu_\w+?)_*(?:\.\d+)?-\d+-schedule-analysis_final_bundles", path.name)
        total = re.search(r"total scheduled bundles:\s*(\d+)", path.read_text(errors="replace")) if name else None
        if name and total:
            found[name[1]] = int(total[1])
        path.unlink()
    return found


def _tpu(target: Topology, folder: Path, step: Any, x: Any) -> list[dict[str, Any]]:
    """Rows of the TPU compiler: the vector memory that each kernel was given, and the length of its program."""
    here = jax.sharding.SingleDeviceSharding(target.devices[0])
    placed = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
    compiled = jax.jit(step).lower(placed, placed, placed).compile()
    bundles = _bundles(folder)
    try:
        sizes: Mapping[str, int | None] = kernel_vmem(compiled.as_text() or "")
    except jax.errors.JaxRuntimeError as error:  # compiled, but XLA cannot read the program back (tpu7x, async-update)
        print(f"note: the compiled program cannot be read, so VMEM is not known ({error})", file=sys.stderr)
        sizes = dict.fromkeys(bundles)
    return [{"part": _part(name), "vmem_bytes": size, "bundles": bundles.get(name)} for name, size in sizes.items()]
