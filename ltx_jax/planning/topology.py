"""Devices of hardware that is not here: TPU slices and CUDA cards, known to their real compilers.

`v6e:4x4` is a TPU topology (libtpu compiles for it on a CPU), `h100:8` eight CUDA cards (XLA's CUDA compiler takes a
device description, kept in parallel/devices). Neither needs the hardware; see the extra `plan`.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from ltx_jax.errors import UserError
from ltx_jax.parallel.chips import CHIPS, Chip

DEVICES = Path(__file__).parents[1] / "parallel" / "devices"


TPUS = {"v5e", "v5p", "v6e", "tpu7x"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to plan for. devices: what a Mesh takes. chip: the data sheet with the memory that is compared with."""

    name: str
    kind: str
    platform: str
    devices: tuple[Any, ...]
    chip: Chip


def topology(name: str) -> Topology:
    """The topology called `name`, such as v6e:4x4, v5p:2x2x2, h100:8 or rtx4090.

    Raises UserError for an unknown chip, a malformed size, or a compiler that is not installed.
    """
    kind, _, size = name.lower().partition(":")
    if kind not in CHIPS:
        raise UserError(f"Unknown device '{kind}'; known: {', '.join(CHIPS)}.")
    return _tpu(name, kind, size) if kind in TPUS else _cuda(name, kind, size or "1")


def _tpu(name: str, kind: str, size: str) -> Topology:
    if not re.fullmatch(r"\d+x\d+(x\d+)?", size):
        raise UserError(f"'{name}' needs a size such as {kind}:4x4.")
    devices = _describe(name, "libtpu", platform="tpu", topology_name=f"{kind}:{size}")
    return Topology(name, kind, "tpu", devices, CHIPS[kind])


def _cuda(name: str, kind: str, size: str) -> Topology:
    if not size.isdigit() or int(size) < 1:
        raise UserError(f"'{name}' needs a number of cards such as {kind}:8.")
    text = (DEVICES / f"{kind}.txtpb").read_text()
    found = re.search(r"device_memory_size: (\d+)", text)
    chip = dataclasses.replace(CHIPS[kind], hbm=float(found.group(1))) if found else CHIPS[kind]
    devices = _describe(
        name, "jax-cuda12-plugin", platform="cuda", topology_name=kind, target_config=text, topology=f"1x1x{size}"
    )
    return Topology(name, kind, "cuda", devices, chip)


def _describe(name: str, package: str, **arguments: Any) -> tuple[Any, ...]:
    from jax.experimental import topologies

    try:
        return tuple(topologies.get_topology_desc(**arguments).devices)
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if _installed(package):
            raise UserError(f"The compiler knows no topology '{name}' ({text[:120]}).") from None
        raise UserError(f"Planning for '{name}' needs {package}: pip install '.[plan]'.") from None


def _installed(package: str) -> bool:
    import importlib.metadata

    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
