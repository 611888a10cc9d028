"""Official tensor names to our parameter trees, one small file per part.

A part's file declares a list of `Name`s that follows from its config alone; the two functions here apply it in either
direction. Nothing else in the library knows an official tensor name.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ltx_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Name:
    """One parameter: `official` (without the part's prefix) and its `path` in our tree.

    axes: ours = official.transpose(axes); None keeps the order. layers: the official name contains "{i}" for i in
    range(first, ..., step), `layers` of them, and ours stacks them on a new leading axis. gate: a vector that older
    files have beside it, by which the rows of the official tensor are multiplied where it is there. optional: a file
    may lack it, which means zeros.
    """

    official: str
    path: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    layers: int | None = None
    first: int = 0
    step: int = 1
    gate: str | None = None
    optional: bool = False

    def officials(self) -> list[str]:
        return self._each(self.official)

    def gates(self) -> list[str | None]:
        """The gate of each of `officials`."""
        return [None] * len(self.officials()) if self.gate is None else list(self._each(self.gate))

    def _each(self, official: str) -> list[str]:
        if self.layers is None:
            return [official]
        return [official.replace("{i}", str(self.first + i * self.step)) for i in range(self.layers)]


def linear(official: str, path: tuple[str, ...], bias: bool = True, layers: int | None = None) -> list[Name]:
    """Names of a linear layer: official weight (out, in) -> our kernel (in, out), and its bias."""
    names = [Name(f"{official}.weight", (*path, "kernel"), (1, 0), layers)]
    return names + [Name(f"{official}.bias", (*path, "bias"), None, layers)] * bias


def to_tree(names: Iterable[Name], tensors: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, Any]:
    """Our parameter tree from official tensors. Raises UserError naming the first missing tensor."""
    tree: dict[str, Any] = {}
    for name in names:
        parts = []
        for official, gate in zip(name.officials(), name.gates(), strict=True):
            if prefix + official not in tensors:
                raise UserError(
                    f"The checkpoint lacks the tensor '{prefix + official}': it is of another model or incomplete."
                )
            array = np.asarray(tensors[prefix + official])
            if name.axes is not None and array.ndim != len(name.axes):
                raise UserError(f"'{prefix + official}' has {array.ndim} axes where {len(name.axes)} are expected.")
            if gate is not None and prefix + gate in tensors:
                array = folded(array, np.asarray(tensors[prefix + gate]))
            parts.append(array if name.axes is None else array.transpose(name.axes))
        insert(tree, name.path, parts[0] if name.layers is None else np.stack(parts))
    return tree


def to_official(names: Iterable[Name], params: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Official tensors from our parameter tree: the exact inverse of `to_tree`."""
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        array = np.asarray(_get(params, name.path))
        inverse = None if name.axes is None else tuple(np.argsort(name.axes))
        parts = [array] if name.layers is None else list(array)
        for official, part in zip(name.officials(), parts, strict=True):
            tensors[prefix + official] = np.ascontiguousarray(part if inverse is None else part.transpose(inverse))
    return tensors


def official_shapes(names: Iterable[Name], shapes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the official tensors, in the order of `names`, from those of our tree (of anything with a shape)."""
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        shape = tuple(_get(shapes, name.path).shape)[name.layers is not None :]
        if name.axes is not None:
            shape = tuple(shape[i] for i in np.argsort(name.axes))
        found |= dict.fromkeys(name.officials(), shape)
    return found


def folded(array: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """array with its rows multiplied by gate, in float32, in its own dtype."""
    rows = gate.astype(np.float32).reshape(-1, *(1,) * (array.ndim - 1))
    return (array.astype(np.float32) * rows).astype(array.dtype)


def insert(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set the leaf at `path` of nested dicts."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _get(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
