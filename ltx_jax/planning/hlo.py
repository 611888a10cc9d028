"""Reader of the compilers' optimised HLO text: computations, instructions, shapes, and how often a loop runs.

Only what the planner asks of it; both the TPU's and the CUDA compiler's spellings are read.
"""

import dataclasses
import math
import re

import numpy as np

_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array of one device. space: of memory; 0 is the device's main memory, others on-chip or the host's."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> float:
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits.group()) if digits else 32)
        return math.prod(self.dims) * bits / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line. shapes: of the result, tuples flattened. operands: names in the same computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool = False

    def called(self, *keys: str) -> list[str]:
        """Names of the computations under these attributes, such as body, calls or branch_computations."""
        found: list[str] = []
        for key in keys:
            match = re.search(rf"\b{key}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.attributes)
            if match:
                found += re.findall(r"[\w.\-]+", match.group(1) or match.group(2))
        return found

    def numbers(self, key: str) -> tuple[int, ...]:
        """The integers of an attribute such as dimensions={0,1}."""
        match = re.search(rf"\b{key}=\{{([\d,]*)\}}", self.attributes)
        return tuple(int(n) for n in match.group(1).split(",") if n) if match else ()


@dataclasses.dataclass(frozen=True)
class Module:
    """A parsed program: instructions by name, by computation, in their order."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def root(self, computation: str) -> Instruction:
        """The result of a computation."""
        instructions = list(self.computations[computation].values())
        return next((i for i in instructions if i.root), instructions[-1])


def parse(text: str) -> Module:
    """The module of `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head and not _HEAD.match(line):
            current = computations.setdefault(head.group(2), {})
            entry = head.group(2) if head.group(1) else entry
        elif current is not None and (match := _HEAD.match(line)):
            instruction = _instruction(match, _COMMENT.sub("", line[match.end() :]))
            current[instruction.name] = instruction
    return Module(computations, entry)


def shapes(text: str) -> tuple[Shape, ...]:
    """All array shapes in a type, in order."""
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        found.append(Shape(dtype, tuple(int(d) for d in dims.split(",") if d), int(space.group(1)) if space else 0))
    return tuple(found)


def _instruction(match: re.Match, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[opening : closing + 1]))
    attributes = rest[closing + 1 :]
    if rest[:opening] in ("constant", "parameter"):
        attributes = rest[opening : closing + 1]
    return Instruction(match.group(2), rest[:opening], shapes(kind), operands, attributes, bool(match.group(1)))


def _closing(text: str, opening: int) -> int:
    """Index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    return len(text) - 1


def trip_count(module: Module, computation: str, loop: Instruction) -> int | None:
    """How often a `while` of `computation` runs its body, or None where only the run knows.

    The CUDA compiler writes it down; else it is the constant with which the condition compares its counter.
    """
    known = re.search(r'known_trip_count\D*"?(\d+)', loop.attributes)
    if known:
        return int(known.group(1))
    condition = module.computations[loop.called("condition")[0]]
    root = module.root(loop.called("condition")[0])
    if root.opcode == "fusion":
        inner = module.root(root.called("calls")[0])
        if "direction=LT" not in inner.attributes or len(root.operands) < 1:
            return None
        names = root.operands
    elif "direction=LT" in root.attributes:
        names = root.operands
    else:
        return None
    bounds = [_constant(condition[n]) for n in names]
    bounds += [_carried(module, computation, loop, condition[n]) for n in names[1:]]
    return next((bound for bound in bounds if bound is not None), None)


def _constant(instruction: Instruction) -> int | None:
    match = re.search(r"\((-?\d+)\)", instruction.attributes) if instruction.opcode == "constant" else None
    return int(match.group(1)) if match else None


def _carried(module: Module, computation: str, loop: Instruction, bound: Instruction) -> int | None:
    """A bound that the loop carries unchanged from a constant."""
    index = re.search(r"index=(\d+)", bound.attributes)
    start = module.computations[computation].get(loop.operands[0])
    if bound.opcode != "get-tuple-element" or index is None or start is None or start.opcode != "tuple":
        return None
    value = module.computations[computation].get(start.operands[int(index.group(1))])
    while value is not None and value.opcode == "copy":
        value = module.computations[computation].get(value.operands[0])
    return None if value is None else _constant(value)


def first_group(attributes: str, devices: int) -> tuple[int, ...]:
    """The partitions of the first group of a collective; all of them where none is named.

    Three spellings: {{0,1},{2,3}}, [4,2]<=[2,4]T(1,0), mesh['a'=2,'b'=4] {'a'}; of permutations the first pair.
    """
    plain = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}", attributes)
    if plain:
        return tuple(int(n) for n in plain.group(1).split(",") if n)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        groups, dims = (tuple(int(n) for n in iota.group(i).split(",")) for i in (1, 2))
        ids = np.arange(math.prod(dims)).reshape(dims)
        if iota.group(3):
            ids = ids.transpose([int(n) for n in iota.group(3).split(",")])
        return tuple(int(n) for n in ids.reshape(groups)[0])
    mesh = re.search(r"replica_groups=(?:mesh|@\w+)\[([^\]]*)\] *\{([^}]*)\}", attributes)
    if mesh:
        axes = dict(re.findall(r"'([^']+)'=(\d+)", mesh.group(1)))
        ids = np.arange(math.prod(int(n) for n in axes.values())).reshape([int(n) for n in axes.values()])
        chosen = re.findall(r"'([^']+)'", mesh.group(2))
        return tuple(int(n) for n in ids[tuple(slice(None) if a in chosen else 0 for a in axes)].reshape(-1))
    return tuple(range(devices))
