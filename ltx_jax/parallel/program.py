"""Programs: a jitted function together with the named abstract arguments it is compiled for.

Everything compiled is made here, once, and is used twice: the run compiles it for the devices it has and executes the
result; the planner compiles the very same program for devices that are not there. So a program is built from shapes
and shardings alone, and arrays are always arguments, never closed-over constants.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ltx_jax.parallel import rules


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function, the ShapeDtypeStructs (with shardings) of its arguments, and the mesh it is traced under.

    arguments: by the names that the function gives them, in its order. weights: the names of those that are a model's
    parameters and stay the same from call to call. model_flops: of one run, over all devices, without what is computed
    twice to save memory; it traces when called.
    """

    jitted: Any
    arguments: Mapping[str, Any]
    mesh: Mesh
    weights: tuple[str, ...] = ()
    model_flops: Callable[[], float] | None = None

    def trace(self) -> Any:
        """The program as a jaxpr."""
        with jax.set_mesh(self.mesh):
            return self.jitted.trace(*self.arguments.values())

    def lower(self) -> jax.stages.Lowered:
        """The program as StableHLO for the mesh's devices, which need not exist on this machine."""
        with jax.set_mesh(self.mesh):
            return self.jitted.lower(*self.arguments.values())

    def compile(self, compiler_options: Mapping[str, Any] | None = None) -> jax.stages.Compiled:
        """The executable: call it with arrays of the shapes and shardings of `arguments`, in their order."""
        options = {**platform_options(self.mesh), **(compiler_options or {})}
        return self.lower().compile(compiler_options=options or None)


def platform_options(mesh: Mesh) -> dict[str, Any]:
    """Compiler options of every program for the mesh's devices.

    On TPU all-to-all transfers run beside kernels, and a product whose operand or result is divided stays one product
    with one collective: cut into a ring of small ones, as the compiler likes to, the 48-layer training step reads and
    writes its memory twice as much (docs/scale.md).
    """
    if mesh.devices.flat[0].platform != "tpu":
        return {}
    return {"xla_tpu_enable_async_all_to_all": True, "xla_jf_spmd_threshold_for_windowed_einsum_mib": 1 << 20}


def make_program(
    function: Callable,
    arguments: Mapping[str, Any],
    mesh: Mesh,
    *,
    out_shardings: Any = None,
    donate: Sequence[str] = (),
    weights: Sequence[str] = (),
) -> Program:
    """Jit `function` for `arguments`, by the names of its parameters: trees of ShapeDtypeStructs with shardings.

    out_shardings: a tree (or prefix of one) of shardings, or None to let the compiler choose. donate: names of the
    arguments whose memory the results may take. weights: see `Program`.
    """
    names, known = list(arguments), inspect.signature(function).parameters.values()
    assert names == [p.name for p in known if p.default is p.empty], f"{function} does not take {names}"
    assert {*donate, *weights} <= set(names), f"{donate} and {weights} must be among {names}"
    options = {} if out_shardings is None else {"out_shardings": out_shardings}
    shardings = tuple(jax.tree.map(lambda x: x.sharding, tree) for tree in arguments.values())
    jitted = jax.jit(function, in_shardings=shardings, donate_argnums=tuple(map(names.index, donate)), **options)
    return Program(jitted, dict(arguments), mesh, tuple(weights))


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs of `shapes` that carry `shardings`: two trees of equal structure."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicated_like(tree: Any, mesh: Mesh) -> Any:
    """ShapeDtypeStructs of the arrays of `tree`, replicated."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=replicated(mesh)), tree)


def batch_like(tree: Any, mesh: Mesh) -> Any:
    """ShapeDtypeStructs of the arrays of `tree`, sharded over their first axis, the batch."""

    def leaf(x: Any) -> jax.ShapeDtypeStruct:
        names = ("batch",) + (None,) * (len(x.shape) - 1)
        sharding = NamedSharding(mesh, rules.spec(names, x.shape, mesh))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(leaf, tree)


def place(tree: Any, abstract: Any) -> Any:
    """Put host arrays on the devices as `abstract` (ShapeDtypeStructs with shardings) says.

    With several hosts each holds its own slice of a sharded first axis, and the whole of a replicated array.
    """
    return jax.tree.map(lambda x, a: _place(np.asarray(x, a.dtype), a), tree, abstract)


def _place(x: np.ndarray, abstract: jax.ShapeDtypeStruct) -> jax.Array:
    if jax.process_count() == 1 or abstract.sharding.is_fully_addressable:
        return jax.device_put(x, abstract.sharding)
    return jax.make_array_from_process_local_data(abstract.sharding, x, abstract.shape)  # type: ignore[arg-type]
