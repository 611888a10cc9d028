"""Which arrays fill the memory: what the blocks keep for the backward pass, and what no mesh axis divides."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ltx_jax.parallel.program import Program
from ltx_jax.planning.hlo import Instruction, Module, Shape
from ltx_jax.training.state import TrainState


def largest_replicated(program: Program) -> tuple[str, float]:
    """The largest argument that every device holds whole: its name and bytes; ("", 0) on one device."""
    if program.mesh.size == 1:
        return ("", 0.0)
    leaves = jax.tree_util.tree_leaves_with_path(dict(program.arguments))
    size = lambda x: float(math.prod(x.shape) * np.dtype(x.dtype).itemsize)
    whole = [(jax.tree_util.keystr(p), size(x)) for p, x in leaves if x.sharding.is_fully_replicated]
    return max(whole, key=lambda item: item[1], default=("", 0.0))


def largest_whole(program: Program, module: Module | None) -> tuple[str, float]:
    """The largest array in main memory, made on the way, that has as many elements along its axes as the whole program
    has in one of its own: nothing divided it. Its HLO name with shape, and bytes.

    A weight that a layer gathers before it is used counts too.
    """
    if module is None or program.mesh.size == 1:
        return ("", 0.0)
    known = set(_array_shapes(program.trace().jaxpr.jaxpr))
    best = ("", 0.0)
    for instruction in _materialised(module):
        for shape in instruction.shapes:
            if shape.space == 0 and shape.bytes > best[1] and _core(shape.dims) in known:
                best = (f"{instruction.name} {shape.dtype}{list(shape.dims)}", shape.bytes)
    return best


def _core(dims: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its ones and its order, which compilers change freely."""
    return tuple(sorted(d for d in dims if d > 1))


def _array_shapes(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Shapes of all arrays that a jaxpr makes; inside of a shard_map they are one device's, and left out."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield _core(getattr(variable.aval, "shape", ()))
        if equation.primitive.name in ("shard_map", "pallas_call"):
            continue
        for value in equation.params.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns"):
                    yield from _array_shapes(inner)


def _materialised(module: Module) -> Iterator[Instruction]:
    """Instructions whose results lie in memory: those outside of fusions."""
    fused = {
        n for c in module.computations.values() for i in c.values() if i.opcode == "fusion" for n in i.called("calls")
    }
    for name, lines in module.computations.items():
        if name not in fused:
            skipped = ("parameter", "get-tuple-element", "tuple", "while", "bitcast", "constant")
            yield from (i for i in lines.values() if i.opcode not in skipped)


def stacks(program: Program, module: Module) -> dict[str, float]:
    """Bytes of the arrays with an entry per layer that a training step's loops fill: "gradients" are those of a
    parameter's shape, the others are the "activations" kept for the backward pass. Empty for other programs."""
    state = program.arguments.get("state")
    if not isinstance(state, TrainState):
        return {}
    local = lambda x: _core(x.sharding.shard_shape(x.shape))
    parameters = Counter(local(x) for x in jax.tree.leaves(state.params) if len(x.shape) > 1)
    found = {"gradients": 0.0, "activations": 0.0}
    for shape in _filled(module):
        if parameters[_core(shape.dims)] > 0:
            parameters[_core(shape.dims)] -= 1
            found["gradients"] += shape.bytes
        else:
            found["activations"] += shape.bytes
    return found


def _filled(module: Module) -> Iterator[Shape]:
    """Carries of loops that the body updates entry by entry: written by a dynamic-update-slice."""
    for lines in module.computations.values():
        for loop in lines.values():
            if loop.opcode != "while":
                continue
            body = module.computations[loop.called("body")[0]]
            root = module.root(loop.called("body")[0])
            if root.opcode != "tuple":
                continue
            for name, shape in zip(root.operands, loop.shapes, strict=False):
                if len(shape.dims) > 2 and shape.space == 0 and _updates(module, body, body.get(name)):
                    yield shape


def _updates(module: Module, body: dict[str, Instruction], line: Instruction | None) -> bool:
    """Whether a value is a dynamic-update-slice, or a fusion (or an element of one) that ends in it."""
    index = 0
    while line is not None and line.opcode in ("get-tuple-element", "bitcast", "copy"):
        if line.opcode == "get-tuple-element":
            index = int(line.attributes.split("index=")[1].split(",")[0].split("}")[0].split()[0])
        line = body.get(line.operands[0]) if line.operands else None
    if line is None or line.opcode == "dynamic-update-slice":
        return line is not None
    if line.opcode != "fusion":
        return False
    inner = module.computations[line.called("calls")[0]]
    root = module.root(line.called("calls")[0])
    if root.opcode == "tuple":
        root = inner[root.operands[index]]
    while root.opcode in ("bitcast", "copy") and root.operands[0] in inner:
        root = inner[root.operands[0]]
    return root.opcode == "dynamic-update-slice"
