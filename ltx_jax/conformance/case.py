"""A recorded case: weights, inputs and outputs of the reference implementation, in one safetensors file."""

import dataclasses
import os
from typing import Any

import numpy as np

from ltx_jax.checkpoints.safetensors import SafetensorsFile
from ltx_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Case:
    """One recording. weights, inputs, outputs: names to arrays; config: official field names and scalar arguments."""

    kind: str
    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    rtol: float
    atol: float
    prefix: str = ""
    notes: str = ""


def read_case(path: str | os.PathLike[str]) -> Case:
    """Read a recorded case. Raises UserError when the file is unreadable or is no case."""
    file = SafetensorsFile(path)
    meta = file.json("case")
    if not isinstance(meta, dict) or "kind" not in meta:
        raise UserError(f"'{path}' is no recorded case: its metadata has no 'case' with a kind.")
    groups: dict[str, dict[str, np.ndarray]] = {"weights": {}, "inputs": {}, "outputs": {}}
    for name in file:
        group, _, rest = name.partition("/")
        if group not in groups or not rest:
            raise UserError(
                f"'{path}' is no recorded case: the tensor '{name}' is neither weights, inputs nor outputs."
            )
        groups[group][rest] = file[name]
    if not groups["outputs"]:
        raise UserError(f"'{path}' records no output, so there is nothing to check.")
    return Case(
        kind=str(meta["kind"]),
        config=meta.get("config") or {},
        rtol=float(meta.get("rtol", 0)),
        atol=float(meta.get("atol", 0)),
        prefix=meta.get("prefix") or "",
        notes=meta.get("notes") or "",
        **groups,
    )
