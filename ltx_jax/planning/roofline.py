"""How fast a device could run a compiled program: the data sheet's rates against what the program asks for."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ltx_jax.planning.topology import Topology
from ltx_jax.planning.traffic import Collective, Totals

# Torus axes of a slice, and the length from which on an axis is closed to a ring (public documentation).
_AXES = {"v5e": 2, "v6e": 2, "v5p": 3, "tpu7x": 3}
_RING = {"v5e": 16, "v6e": 16, "v5p": 4, "tpu7x": 4}


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that arithmetic, main memory and transfers need, each at its peak."""

    compute_s: float
    memory_s: float
    transfer_s: float

    @property
    def overlapped_s(self) -> float:
        """All three at once: the slowest counts."""
        return max(self.compute_s, self.memory_s, self.transfer_s)

    @property
    def serial_s(self) -> float:
        """Transfers wait for arithmetic and memory, and these for transfers."""
        return max(self.compute_s, self.memory_s) + self.transfer_s

    def __add__(self, other: "Roofline") -> "Roofline":
        fields = ("compute_s", "memory_s", "transfer_s")
        return Roofline(*(getattr(self, f) + getattr(other, f) for f in fields))


def roofline(totals: Totals, flops: float, target: Topology, devices: Sequence[Any]) -> Roofline:
    """Of one program. flops: of one device. devices: the mesh's, in its order."""
    transfer = sum(size / link_rate(key, target, devices) for key, size in totals.collectives.items())
    return Roofline(flops / target.chip.flops, totals.bytes / target.chip.bandwidth, transfer)


def link_rate(collective: Collective, target: Topology, devices: Sequence[Any]) -> float:
    """Bytes/s that a device can send in this collective.

    A TPU group uses the links of the torus axes that it spans, both directions where the axis is a ring; a permutation
    goes one way, over as many links as its first pair is apart. CUDA cards use all of their links.
    """
    rate = target.chip.link
    if target.platform != "tpu":
        return rate
    places = [devices[i].coords for i in collective.group]
    slice_size = [1 + max(d.coords[a] for d in target.devices) for a in range(3)]
    link = rate / (2 * _AXES[target.kind])  # one link, one way
    rings = [size >= _RING[target.kind] and size % _RING[target.kind] == 0 for size in slice_size]
    if collective.kind == "collective-permute":
        hops = 0
        for axis, (a, b) in enumerate(zip(places[0], places[-1], strict=True)):
            apart = abs(a - b)
            hops += min(apart, slice_size[axis] - apart) if rings[axis] else apart
        return link / max(1, hops)
    spanned = [axis for axis in range(3) if len({p[axis] for p in places}) > 1]
    if not spanned:
        return rate  # cores of one chip
    whole = lambda axis: rings[axis] and len({p[axis] for p in places}) == slice_size[axis]
    return sum(link * (2 if whole(axis) else 1) for axis in spanned)
