"""What one device does in a compiled program: FLOPs, bytes of its main memory, and collectives, loops counted in full.

Counted from the optimised HLO: what one loop body does times the loop's trips, a branch as its heaviest side. Main
memory is counted as the compilers' own analysis does: every instruction outside of fusions reads its operands and
writes its result once, slices only what they take; what lies in on-chip memory is free.
"""

import dataclasses
import functools
import math
import re
from collections import defaultdict

from ltx_jax.parallel.flops import valid_pairs
from ltx_jax.planning.hlo import Instruction, Module, Shape, first_group, trip_count

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy-done", "slice-done", "async-done",
    "async-update", "after-all", "partition-id", "replica-id", "opt-barrier", "optimization-barrier", "iota", "while",
    "conditional", "call", *(f"{kind}-done" for kind in COLLECTIVES),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
    """A kind of transfer: what, in which dtype, and the partitions of the first group that takes part."""

    kind: str
    dtype: str
    group: tuple[int, ...]


@dataclasses.dataclass
class Totals:
    """Of one device. collectives: bytes sent by it; counts: how often each happens."""

    flops: float = 0.0
    bytes: float = 0.0
    collectives: dict[Collective, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    counts: dict[Collective, float] = dataclasses.field(default_factory=lambda: defaultdict(float))

    def add(self, other: "Totals", times: float = 1.0) -> None:
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        for mine, theirs in ((self.collectives, other.collectives), (self.counts, other.counts)):
            for key, value in theirs.items():
                mine[key] += times * value


def totals(module: Module, devices: int, trips: int = 1) -> Totals:
    """What one device does in a run. trips: of loops whose length only the run knows."""
    return _Counter(module, devices, trips).computation(module.entry)


class _Counter:
    def __init__(self, module: Module, devices: int, trips: int):
        self.module, self.devices, self.trips = module, devices, trips
        self.computation = functools.cache(self._computation)

    def _computation(self, name: str, fused: bool = False) -> Totals:
        result, lines = Totals(), self.module.computations[name]
        for line in lines.values():
            self._structure(result, name, line, fused)
            kind = next((k for k in COLLECTIVES if line.opcode in (k, f"{k}-start")), None)
            if kind:
                _add_collective(result, lines, line, kind, name, self.devices)
            result.flops += _flops(lines, line)
            if not fused and line.opcode not in _FREE:
                result.bytes += self._bytes(lines, line)
        return result

    def _structure(self, result: Totals, name: str, line: Instruction, fused: bool) -> None:
        """Adds what called computations do."""
        if line.opcode == "while":
            times = trip_count(self.module, name, line)
            result.add(self.computation(line.called("body")[0]), self.trips if times is None else times)
        elif line.opcode == "conditional":
            names = line.called("branch_computations", "true_computation", "false_computation")
            result.add(max((self.computation(n) for n in names), key=lambda t: (t.flops, t.bytes)))
        elif line.opcode in ("fusion", "async-start"):
            result.add(self.computation(line.called("calls")[0], True))
        elif line.opcode == "call":
            result.add(self.computation(line.called("to_apply")[0], fused))

    def _bytes(self, lines: dict[str, Instruction], line: Instruction) -> float:
        operands = [lines[n] for n in line.operands if n in lines]
        size = lambda i: sum(_main(s) for s in i.shapes)
        if line.opcode in ("copy-start", "slice-start"):  # between memories: the main one's side once
            spaces = [s for s in line.shapes if s.dtype != "u32"][:2]
            moved = min((s.bytes for s in spaces), default=0.0)
            return moved * sum(s.space == 0 for s in spaces)
        if line.opcode in ("dynamic-slice", "gather", "slice"):
            return 2.0 * size(line)
        if line.opcode == "dynamic-update-slice":
            return 2.0 * size(operands[1])
        if line.opcode == "fusion":
            return self._fusion(line, operands)
        return size(line) + sum(size(i) for i in operands)

    def _fusion(self, line: Instruction, operands: list[Instruction]) -> float:
        """Reads of the operands and writes of the result, of slices and updates in place only their part."""
        inner = self.module.computations[line.called("calls")[0]]
        root = self.module.root(line.called("calls")[0])
        users: dict[str, list[tuple[Instruction, int]]] = {}
        for instruction in inner.values():
            for place, operand in enumerate(instruction.operands):
                users.setdefault(operand, []).append((instruction, place))
        total = 0.0
        for instruction in inner.values():
            if instruction.opcode == "parameter":
                operand = operands[int(instruction.attributes.strip("()"))]
                total += min(sum(_main(s) for s in operand.shapes), _used(users, instruction))
        results = [inner[n] for n in root.operands] if root.opcode == "tuple" else [root]
        for result, shape in zip(results, line.shapes, strict=False):
            origin = _behind(inner, result)
            update = origin.opcode == "dynamic-update-slice"
            total += sum(s.bytes for s in inner[origin.operands[1]].shapes) if update else _main(shape)
        return total


def _main(shape: Shape) -> float:
    return shape.bytes if shape.space == 0 else 0.0


def _behind(lines: dict[str, Instruction], line: Instruction) -> Instruction:
    while line.opcode in ("bitcast", "copy", "convert") and line.operands and line.operands[0] in lines:
        line = lines[line.operands[0]]
    return line


def _used(users: dict[str, list[tuple[Instruction, int]]], parameter: Instruction) -> float:
    """Bytes of a fusion's parameter that are read."""
    total = 0.0
    for user, place in users.get(parameter.name, []):
        if user.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
            total += sum(s.bytes for s in user.shapes)
        elif user.opcode == "bitcast":
            total += _used(users, user)
        elif user.opcode != "dynamic-update-slice" or place != 0:
            return math.inf
    return total


def _add_collective(
    result: Totals, lines: dict[str, Instruction], line: Instruction, kind: str, computation: str, devices: int
) -> None:
    inputs = [s for n in line.operands if n in lines for s in lines[n].shapes]
    group = first_group(line.attributes, devices)
    if kind == "all-reduce" and "all-reduce-scatter" in computation:  # how the TPU compiler writes it
        kind = "reduce-scatter"
    given = sum(s.bytes for s in inputs)
    made = sum(s.bytes for s in line.shapes if s.dims or not line.opcode.endswith("-start"))
    if line.opcode.endswith("-start") and kind != "all-reduce":
        made -= given  # their results hold the operands too
    share = 1.0 if kind == "collective-permute" else (len(group) - 1) / max(1, len(group))
    sent = {"all-gather": made, "all-reduce": 2 * given}.get(kind, given) * share
    key = Collective(kind, max(inputs, key=lambda s: s.bytes).dtype if inputs else "?", group)
    result.collectives[key] += sent
    result.counts[key] += 1


def _flops(lines: dict[str, Instruction], line: Instruction) -> float:
    if line.opcode == "dot":
        shape = lines[line.operands[0]].shapes[0].dims
        return 2.0 * math.prod(line.shapes[0].dims) * math.prod(shape[d] for d in line.numbers("lhs_contracting_dims"))
    if line.opcode == "convolution":
        return _convolution(lines, line)
    if line.opcode == "custom-call":
        estimate = re.search(r'"cost_estimate":\{"flops":"(\d+)"', line.attributes)
        return float(estimate.group(1)) if estimate else 0.0
    return 0.0


def _convolution(lines: dict[str, Instruction], line: Instruction) -> float:
    """FLOPs of a convolution, which is how the TPU compiler writes every matrix product too."""
    x, kernel = (lines[n].shapes[0].dims for n in line.operands[:2])
    out = line.shapes[0].dims
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes)
    if labels is None:
        return 0.0
    left, right, result = labels.groups()
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", (re.search(r"window=\{([^}]*)\}", line.attributes) or [""])[0]))
    axis = lambda key, i, default: int(window[key].split("x")[i]) if key in window else default
    pairs = 1
    for i in range(len(left) - 2):
        low = int(window["pad"].split("x")[i].split("_")[0]) if "pad" in window else 0
        pairs *= valid_pairs(
            x[left.index(str(i))], kernel[right.index(str(i))], out[result.index(str(i))], axis("stride", i, 1), low,
            axis("lhs_dilate", i, 1), axis("rhs_dilate", i, 1),
        )  # fmt: skip
    groups = re.search(r"batch_group_count=(\d+)", line.attributes)
    batch = x[left.index("b")] / (int(groups.group(1)) if groups else 1)
    return 2.0 * batch * kernel[right.index("i")] * out[result.index("f")] * pairs
