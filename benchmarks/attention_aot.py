"""What the compilers say of our attention kernels for a device that is not here: one row per kernel and tile."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from attention_kernels import all_tiles, default_tile, families, ours

from ltx_jax.errors import UserError
from ltx_jax.planning.ptxas import compile_report
from ltx_jax.planning.topology import Topology, topology

WIDTHS = (64, 128)
DTYPE = jnp.bfloat16
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
    target = topology(f"{name}:{size}" if size else name)
    device = target.devices[0]
    for width in WIDTHS:
        x = jax.ShapeDtypeStruct((2, tokens, 2, width), DTYPE)
        for family in families(device.platform, device.device_kind):
            default = [default_tile(family, device.device_kind, width, DTYPE)]
            for tile in all_tiles(family, device.device_kind, width, DTYPE) if every_tile else default:
                try:
                    found = _tpu(target, family, tile, x) if size else _cuda(target, family, tile, x)
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
    def step(q: Any, k: Any, v: Any) -> Any:
        out, pull = jax.vjp(ours(family, tile), q, k, v)
        return out, pull(out)

    return step


def _part(kernel: str) -> str:
    return next((text for part, text in PARTS.items() if re.search(rf"{part}(_|$|\b)", kernel)), kernel)


def _cuda(target: Topology, family: str, tile: Any, x: Any) -> list[dict[str, Any]]:
    """Rows of ptxas; XLA's own fusions are left out."""
    report = [kernel for kernel in compile_report(_step(family, tile), (x, x, x), target) if family in kernel["name"]]
    return [{"part": _part(kernel.pop("name")), **kernel} for kernel in report]


def _tpu(target: Topology, family: str, tile: Any, x: Any) -> list[dict[str, Any]]:
    """Rows of the TPU compiler: the vector memory that each kernel was given."""
    here = jax.sharding.SingleDeviceSharding(target.devices[0])
    placed = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
    text = jax.jit(_step(family, tile)).lower(placed, placed, placed).compile().as_text() or ""
    found = []
    for line in text.splitlines():
        name = re.search(r"tpu_attention_(\w+?)\)*/pallas_call", line)
        size = re.search(r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"\d+","size":"(\d+)"', line)
        if "tpu_custom_call" in line and name and size:
            found.append({"part": _part(name[1]), "vmem_bytes": int(size[1])})
    return found
