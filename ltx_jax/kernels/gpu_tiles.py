"""Block sizes of the Hopper attention kernels, a small table by head width.

The figures come from ptxas and the machine code, not from clocks (tests/kernels/test_hopper_aot.py compiles them): the
largest blocks whose accumulators stay in registers. Replace a row when a measurement on the device says otherwise.
"""

import dataclasses

from ltx_jax.errors import require

ROWS = 64  # rows of one wgmma: each compute warpgroup holds this many queries (keys in the kernel of dk and dv)
REGISTERS = {2: (240, 24), 3: (160, 32)}  # workers -> registers of a compute and of the memory thread, 64 k in all


@dataclasses.dataclass(frozen=True)
class HopperTile:
    """Blocks of the three kernels.

    workers: compute warpgroups of a block, 64 queries each. keys: keys of one step. slots: steps in flight between
    memory and compute. dq_*: the same for the gradient of the queries. dkv_*: for the gradients of keys and values,
    where a worker holds 64 keys and dkv_queries are the queries of one step.
    """

    workers: int = 2
    keys: int = 128
    slots: int = 2
    dq_workers: int = 2
    dq_keys: int = 64
    dq_slots: int = 3
    dkv_workers: int = 2
    dkv_queries: int = 64
    dkv_slots: int = 2

    def __post_init__(self) -> None:
        for name in ("workers", "dq_workers", "dkv_workers"):
            require(getattr(self, name) in REGISTERS, f"HopperTile.{name} is {getattr(self, name)}; use 2 or 3.")
        for name in ("keys", "dq_keys", "dkv_queries"):
            size = getattr(self, name)
            require(size in (64, 128, 192, 256), f"HopperTile.{name} is {size}; use 64, 128, 192 or 256.")
        for name in ("slots", "dq_slots", "dkv_slots"):
            require(getattr(self, name) >= 2, f"HopperTile.{name} is {getattr(self, name)}; at least 2 overlap.")


# By head width. Three workers leave 160 registers each, enough at width 64; at 128 two hold the larger step.
HOPPER_TILES = {
    64: HopperTile(workers=3, keys=128, slots=3, dq_keys=128, dq_slots=3, dkv_queries=128, dkv_slots=3),
    128: HopperTile(workers=2, keys=192, slots=2, dq_keys=128, dq_slots=2, dkv_queries=64, dkv_slots=2),
}


def hopper_tile(width: int, kept: bool) -> HopperTile:
    """The tile for a head width. kept: with a key mask, whose rows find no room beside the largest step."""
    tile = HOPPER_TILES[width]
    return dataclasses.replace(tile, workers=2, keys=min(tile.keys, 128)) if kept else tile
