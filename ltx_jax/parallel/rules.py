"""The one table from logical axis names to mesh axes, and the only activation constraint.

Parameters and activations name their axes by meaning ("embed", "heads", "batch"); this table alone says where those
live. A name that is not in the table, or a missing mesh, is an error: flax's own helpers pass silently.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Several mesh axes in one entry shard one array axis over their product.
RULES: dict[str, tuple[str, ...] | None] = {
    # activations
    "batch": ("data", "fsdp"),
    "tokens": ("context",),  # video tokens; audio and text tokens stay replicated over context
    "tokens_replicated": None,
    "act_embed": None,
    "act_heads": ("tensor",),
    "act_mlp": ("tensor",),
    # parameters
    "layers": None,
    "embed": ("fsdp", "context"),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "rows": None,  # rows of modulation tables, small vectors
    "conv_in": None,
    "conv_out": ("fsdp", "context"),
    "kernel": None,
}


def spec(names: Sequence[str | None], shape: Sequence[int] | None = None, mesh: Mesh | Any = None) -> PartitionSpec:
    """PartitionSpec of an array whose axes carry `names` (None: replicated).

    With `shape` and `mesh` given, mesh axes that do not divide an array axis are dropped, and a mesh axis already
    taken by an earlier array axis is not used twice. Raises KeyError on an unknown name.
    """
    used: set[str] = set()
    entries: list[Any] = []
    for i, name in enumerate(names):
        if name is not None and name not in RULES:
            raise KeyError(f"unknown logical axis {name!r}; known: {', '.join(sorted(RULES))}")
        axes = [a for a in (RULES[name] or ()) if a not in used] if name is not None else []
        if shape is not None and mesh is not None:
            axes = _dividing(axes, shape[i], dict(mesh.shape))
        used.update(axes)
        entries.append(tuple(axes) if len(axes) > 1 else axes[0] if axes else None)
    return PartitionSpec(*entries)


def _dividing(axes: list[str], size: int, mesh_shape: dict[str, int]) -> list[str]:
    kept, product = [], 1
    for axis in axes:
        if size % (product * mesh_shape[axis]) == 0:
            kept.append(axis)
            product *= mesh_shape[axis]
    return kept


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrain the sharding of activation `x` by logical names; raises on an unknown name or when no mesh is set."""
    if len(names) != x.ndim:
        raise ValueError(f"{x.ndim} axes but {len(names)} names: {names} for shape {x.shape}")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        raise RuntimeError("no mesh: enter one with `jax.set_mesh(make_mesh(...))` (one device is also a mesh)")
    return jax.lax.with_sharding_constraint(x, spec(names))


def constrain_divisible(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrain as parameters are placed: mesh axes that do not divide an axis of the array are left out.

    Without a mesh, as in plain uses of one layer, nothing happens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, spec(names, x.shape, mesh))


def gather_parameter(x: jax.Array, *names: str | None) -> jax.Array:
    """A parameter of axes `names` as a matmul reads it: whole, but for what is divided over `tensor`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    stays = lambda entry: "tensor" if entry == "tensor" or (isinstance(entry, tuple) and "tensor" in entry) else None
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*map(stays, spec(names, x.shape, mesh))))


def param_shardings(axes: Any, shapes: Any, mesh: Mesh) -> Any:
    """Tree of NamedShardings for parameters, from a tree of axis-name tuples and a tree of ShapeDtypeStructs."""
    is_names = lambda a: isinstance(a, tuple) and all(n is None or isinstance(n, str) for n in a)
    return jax.tree.map(lambda a, s: NamedSharding(mesh, spec(a, s.shape, mesh)), axes, shapes, is_leaf=is_names)
