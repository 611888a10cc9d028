"""Block sizes of the TPU attention kernels, a small table by device kind.

The figures come from the schedules of the TPU compiler, not from clocks: bundles per 512 x 512 scores and VMEM of each
candidate (tests/kernels/test_tpu_aot.py compiles them). Replace a row when a measurement on the device says otherwise.
"""

import dataclasses
import itertools
from typing import Any

from ltx_jax.errors import require

LANES = 128  # the width of a vector register; every block is a multiple of it
MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Tile:
    """Blocks of one kernel family.

    queries, keys: rows of q and of k, v that one forward step holds. strip: the keys whose scores are alive at once;
    the next strip's product is issued before the softmax of the present one. backward_queries, backward_keys: the
    first two for the gradients. resident: bytes of VMEM that the query gradient of a whole head may fill (then one
    kernel makes all gradients; beyond it two do). vmem: the limit in bytes that a kernel asks for. matrix_sum: sum the
    probabilities by rows of ones in the matrix product (worth it where the vector unit is the bound).
    """

    queries: int = 512
    keys: int = 1024
    strip: int = 256
    backward_queries: int = 512
    backward_keys: int = 512
    resident: int = 64 * MIB
    vmem: int = 96 * MIB
    matrix_sum: bool = False

    def __post_init__(self) -> None:
        for name in ("queries", "keys", "strip", "backward_queries", "backward_keys"):
            size = getattr(self, name)
            require(size > 0 and size % LANES == 0, f"Tile.{name} is {size}; make it a positive multiple of {LANES}.")


DEFAULT = Tile()
_SMALL_VMEM: dict[str, Any] = {"resident": 32 * MIB, "vmem": 48 * MIB}
_V5P = dataclasses.replace(DEFAULT, **_SMALL_VMEM)
_V6E = dataclasses.replace(DEFAULT, strip=512, matrix_sum=True)
_TPU7X = dataclasses.replace(_V6E, **_SMALL_VMEM)

# By jax.Device.device_kind (some kinds have two spellings). v5e and v6e have 128 MiB of VMEM a core, v5p and TPU7x 64.
TILES = {
    "TPU v5 lite": DEFAULT,
    "TPU v5e": DEFAULT,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "TPU7x": _TPU7X,
}


def tile_for(device_kind: str) -> Tile:
    """The tile for a device kind as JAX spells it; DEFAULT for one that is not in the table."""
    return TILES.get(device_kind, DEFAULT)


def candidates(device_kind: str) -> list[Tile]:
    """What a tuner tries on a device: every forward cut with the default backward one, then the reverse."""
    base = tile_for(device_kind)
    forward = itertools.product((256, 512, 1024), (512, 1024, 2048), (256, 512), (False, True))
    backward = itertools.product((256, 512, 1024), (256, 512, 1024))
    names = ("queries", "keys", "strip", "matrix_sum")
    return [dataclasses.replace(base, **dict(zip(names, sizes, strict=True))) for sizes in forward] + [
        dataclasses.replace(base, backward_queries=queries, backward_keys=keys) for queries, keys in backward
    ]


def fit(length: int, block: int, unit: int = LANES) -> int:
    """The block, at most `block` and a multiple of `unit`, that cuts `length` into even pieces with the least waste."""
    unit = min(unit, block)
    pieces = -(-length // block)
    return min(block, -(-length // (pieces * unit)) * unit)
