"""What a run is and was: configurations that must agree, and `run.json` with versions, devices and mesh."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ltx_jax.errors import UserError
from ltx_jax.files import read_json, write_json
from ltx_jax.parallel.multihost import is_first, say

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


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run was asked for: the resolved configuration, JSON-able, and the command line."""

    config: Any = None
    command: tuple[str, ...] = ()


def record_run(workdir: Path, mesh: Mesh, seed: int, run: RunRecord) -> None:
    """Write `run.json`: this start of the run and the earlier ones, newest first.

    Where the newest earlier one had another environment or code, say in what: results are then not bit for bit the
    same. Of several processes the first one writes.
    """
    if not is_first():
        return
    path = workdir / "run.json"
    now = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"), "environment": environment(mesh), "code": code_state(),
        "seed": seed, "command": list(run.command), "config": run.config,
    }  # fmt: skip
    now = json.loads(json.dumps(now))
    try:
        earlier = read_json(path)["runs"]
    except (OSError, UserError, KeyError, TypeError):  # none, or one that only tells what was
        earlier = []
    if earlier:
        keys = [k for key in ("environment", "code") for k in differing_keys(now[key], earlier[0].get(key, {}), key)]
        keys += differing_keys(now["config"], earlier[0].get("config"), "config", shared=True)
        if keys:
            say(f"note: {', '.join(keys)} differ from the earlier run in {workdir}: its bits may not be repeated")
    write_json(path, {"runs": [now, *earlier]})


def code_state() -> dict[str, Any]:
    """The git commit of this package and whether files differ from it; {} where it is installed without one."""
    folder = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # the package may lie in somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
