"""What a run is and was: configurations that must agree, and `run.json` with versions, devices and mesh."""

import importlib.metadata
import json
import os
import platform
import sys
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ltx_jax.errors import UserError
from ltx_jax.files import write_json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ltx-jax")
# Settings that change how a run is watched and kept, not what it computes.
WATCHED = ("checkpoint_every", "keep", "log_every", "sample_every", "workers", "on_error")
FREE = frozenset((*WATCHED, "remat", "accumulate", "max_skipped", "init"))
BASE, SAMPLED = "base", 4096  # key of a run's frozen weights; numbers that are looked at of every array


def differing_keys(ours: Any, theirs: Any, where: str = "", shared: bool = False) -> list[str]:
    """Dotted keys in which two nested JSON values differ; shared: of those that both have."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [k for k in dict.fromkeys((*ours, *theirs)) if not shared or (k in ours and k in theirs)]
        missing = object()
        pairs = [(k, ours.get(k, missing), theirs.get(k, missing)) for k in keys]
        return [d for k, a, b in pairs for d in differing_keys(a, b, f"{where}.{k}" if where else k, shared)]
    return [] if ours == theirs else [where]


def base_record(frozen: Any) -> dict[str, str]:
    """What tells frozen weights apart, as part of a run's identity: a number of a sample of every array's bits."""
    value = 0
    for leaf in jax.tree.leaves(frozen):
        flat = np.asarray(leaf).reshape(-1)
        value = zlib.crc32(np.ascontiguousarray(flat[:: max(1, flat.size // SAMPLED)]).tobytes(), value)
    return {BASE: f"{value:08x}"} if frozen else {}


def check_config(ours: Any, theirs: Any, where: str) -> None:
    """Raise UserError naming the keys in which a checkpoint's configuration is another one.

    A setting that only one of them has is of a later version, whose default does what the earlier one did.
    """
    ours = json.loads(json.dumps(ours))  # tuples become lists, as they did in the checkpoint
    keys = [k for k in differing_keys(ours, theirs, shared=True) if k.rpartition(".")[2] not in FREE]
    if keys == [BASE]:
        raise UserError(
            f"'{where}' was trained on other frozen weights than these; name the model that it began with by "
            "--init_from, or use another workdir."
        )
    if keys:
        named = ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
        raise UserError(f"'{where}' is of another configuration ({named}); use another workdir, or that configuration.")


def environment(mesh: Mesh) -> dict[str, Any]:
    """What bit-exactness depends on beside the configuration: versions, devices, mesh and compiler flags."""
    device = mesh.devices.flat[0]
    return {
        "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": int(mesh.devices.size)},
        "processes": jax.process_count(),
        "mesh": {name: int(size) for name, size in mesh.shape.items()},
        "cores": os.cpu_count() if device.platform == "cpu" else None,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def record_run(workdir: Path, mesh: Mesh, config: Any) -> None:
    """Write `run.json`; where an earlier one differs, say in what, since results are then not bit for bit the same."""
    path, now = workdir / "run.json", environment(mesh)
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8")).get("environment", {})
        except json.JSONDecodeError:
            before = {}
        keys = differing_keys(now, before)
        if before and keys:
            print(
                f"note: {', '.join(keys)} differ from the earlier run in {workdir}: its bits will not be repeated",
                file=sys.stderr,
            )
    if jax.process_index() == 0:
        write_json(path, {"environment": now, "config": config})


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
