"""All-to-all between heads and tokens (Ulysses): every device of a group trades its share of the tokens of most heads
for all the group's tokens of a few heads, attends locally, and trades back.

A group of `size` neighbours on a mesh axis may be smaller than the axis: the tokens of the groups then meet in a ring
across them (ring.py). Runs inside `jax.shard_map`.
"""

import dataclasses

import jax

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Groups of `size` neighbouring devices on mesh axis `axis` of `devices`."""

    axis: str
    devices: int
    size: int

    def place(self) -> Array:
        """This device's number in its group: which share of the heads it takes."""
        return jax.lax.axis_index(self.axis) % self.size

    def to_heads(self, x: Array) -> Array:
        """(B, T, N, K) of this device's tokens -> (B, size * T, N / size, K): the group's tokens in order."""
        return self._trade(x, 2, 1)

    def to_tokens(self, x: Array) -> Array:
        """The reverse: (B, size * T, N / size, K) -> (B, T, N, K)."""
        return self._trade(x, 1, 2)

    def _trade(self, x: Array, split: int, join: int) -> Array:
        if self.size == 1:
            return x
        groups = [list(range(i, i + self.size)) for i in range(0, self.devices, self.size)]
        return jax.lax.all_to_all(x, self.axis, split, join, axis_index_groups=groups, tiled=True)
