"""What chips and cards can do, from public data sheets."""

import dataclasses

from jax.sharding import Mesh

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device: hbm in bytes, peak dense bfloat16 FLOP/s, HBM bytes/s, link bytes/s (all its links together)."""

    hbm: float
    flops: float
    bandwidth: float
    link: float


# Public data sheets. TPU memory is what the data sheet says; programs get a little less.
CHIPS = {
    "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9),
    "v6e": Chip(32 * GIB, 918e12, 1640e9, 448e9),
    "tpu7x": Chip(96 * GIB, 1153e12, 3690e9, 600e9),  # per device; a chip is two of them
    "h100": Chip(80e9, 989e12, 3350e9, 450e9),
    "h200": Chip(141e9, 989e12, 4800e9, 450e9),
    "b200": Chip(180e9, 2250e12, 7700e9, 900e9),
    "a100": Chip(80e9, 312e12, 2039e9, 300e9),
    "rtx4090": Chip(24e9, 165e12, 1008e9, 32e9),
    "rtx5090": Chip(32e9, 210e12, 1792e9, 64e9),
}

# Part of the name that JAX gives a device -> ours; the first that fits counts.
_KINDS = (
    ("v5 lite", "v5e"), ("v5e", "v5e"), ("v5", "v5p"), ("v6", "v6e"), ("tpu7x", "tpu7x"), ("h100", "h100"),
    ("h200", "h200"), ("b200", "b200"), ("a100", "a100"), ("4090", "rtx4090"), ("5090", "rtx5090"),
)  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
    """The data sheet of a device by JAX's name for its kind, such as "TPU v5 lite"; None for one that is not known."""
    name = next((chip for part, chip in _KINDS if part in device_kind.lower()), None)
    return None if name is None else CHIPS[name]


def peak_flops(mesh: Mesh) -> float:
    """Peak dense bfloat16 FLOP/s of all devices of a mesh together; 0 where they are not known."""
    device = mesh.devices.flat[0]
    chip = None if device.platform == "cpu" else chip_of(device.device_kind)
    return 0.0 if chip is None else chip.flops * mesh.size
