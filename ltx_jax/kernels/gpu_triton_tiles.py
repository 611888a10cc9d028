"""Block sizes of the Triton attention kernels, a small table by card.

The figures come from the compilers, not from clocks: registers, spills and shared memory of each candidate
(tests/kernels/test_triton_aot.py compiles them). `benchmarks/attention.py --autotune` measures the candidates on the
card at hand and prints the row to put here.
"""

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp

from ltx_jax.errors import require


@dataclasses.dataclass(frozen=True)
class Blocks:
    """One Triton kernel: rows of q and of k, v per step, warps of a program, stages of the load pipeline."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2

    def __post_init__(self) -> None:
        for name in ("queries", "keys", "warps"):
            size = getattr(self, name)
            require(size > 0 and size & (size - 1) == 0, f"Blocks.{name} is {size}; make it a power of two.")
        require(min(self.queries, self.keys) >= 16, "Blocks of fewer than 16 rows do not fill a matrix instruction.")


@dataclasses.dataclass(frozen=True)
class TritonTile:
    """Blocks of the three Triton kernels: the output, dk and dv, dq."""

    forward: Blocks
    backward_keys: Blocks
    backward_queries: Blocks


# By head width up to which the row holds, for 16-bit inputs. No variant of masks spills at these; 128 x 64 at width 128
# would rescale half as often, but spills where lengths are given.
_SMALL_SHARED = {  # Ada, consumer Blackwell, and cards not named below: 99 KiB of shared memory a program
    64: TritonTile(Blocks(128, 64, 4, 2), Blocks(32, 64, 4, 2), Blocks(64, 64, 4, 2)),
    128: TritonTile(Blocks(128, 32, 8, 2), Blocks(64, 64, 8, 2), Blocks(128, 32, 8, 2)),
}
_LARGE_SHARED = {  # A100 163 KiB, Hopper and Blackwell 227 KiB
    64: TritonTile(Blocks(128, 64, 4, 3), Blocks(32, 64, 4, 2), Blocks(64, 64, 4, 2)),
    128: TritonTile(Blocks(128, 32, 8, 3), Blocks(64, 64, 8, 2), Blocks(128, 32, 8, 2)),
}
# Parts of jax.Device.device_kind; the first that is found counts.
TRITON_TILES = {"A100": _LARGE_SHARED, "H100": _LARGE_SHARED, "H200": _LARGE_SHARED, "B200": _LARGE_SHARED}
# float32 inputs, any card.
_FLOAT32 = TritonTile(Blocks(32, 32, 8, 1), Blocks(32, 16, 8, 1), Blocks(32, 32, 8, 1))


def triton_tile(device_kind: str, width: int, dtype: Any) -> TritonTile:
    """The tile for a device kind as JAX spells it, a head width and the inputs' dtype."""
    if jnp.dtype(dtype).itemsize == 4:
        return _FLOAT32
    table = next((row for name, row in TRITON_TILES.items() if name in device_kind), _SMALL_SHARED)
    return table[min(size for size in table if size >= width)]


def triton_candidates(device_kind: str, width: int, dtype: Any) -> list[TritonTile]:
    """What a tuner tries on a card: every cut of each kernel, the other kernels at their defaults."""
    base = triton_tile(device_kind, width, dtype)
    sizes = [Blocks(*x) for x in itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3))]
    turned = [Blocks(b.keys, b.queries, b.warps, b.stages) for b in sizes]
    return [
        *(dataclasses.replace(base, forward=b) for b in sizes),
        *(dataclasses.replace(base, backward_keys=b) for b in turned),
        *(dataclasses.replace(base, backward_queries=b) for b in sizes),
    ]
