"""Device meshes: the only place that makes them.

Axes are (data, fsdp, context, tensor), all of type Auto. One device is also a mesh, so the same program runs on a
laptop and on a pod; only the mesh changes. Slices that only the data-centre network joins split the data axis alone:
gradients cross it once a step, while parameters and tokens stay within a slice.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from ltx_jax.errors import UserError, require

AXES = ("data", "fsdp", "context", "tensor")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1, meaning all remaining devices.

    slices: groups of devices that the data axis runs over first; 0 finds those of a TPU.
    """

    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1
    slices: int = 0

    def __post_init__(self):
        sizes = self.sizes
        require(
            all(s == -1 or s >= 1 for s in sizes), f"Mesh axes must be at least 1 (or -1 for the rest), not {sizes}."
        )
        require(sizes.count(-1) <= 1, f"At most one mesh axis may be -1, not {sizes}.")
        require(self.slices >= 0, f"mesh.slices must be at least 1 (or 0 to find them), not {self.slices}.")

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return (self.data, self.fsdp, self.context, self.tensor)


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Axis sizes for `devices` devices. Raises UserError when the product does not match."""
    known = math.prod(s for s in config.sizes if s != -1)
    shape = tuple(devices // known if s == -1 else s for s in config.sizes)
    if math.prod(shape) != devices or 0 in shape:
        raise UserError(
            f"The mesh {dict(zip(AXES, config.sizes, strict=True))} does not divide the {devices} devices here; "
            f"choose sizes whose product is {devices}, or leave one at -1."
        )
    return shape


def make_mesh(config: MeshConfig = MeshConfig(), devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over `devices` (default: all of them). Enter it with `jax.set_mesh`.

    Raises UserError as `mesh_shape`, and when the slices do not divide the data axis.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(config, len(devices))
    auto = (AxisType.Auto,) * len(AXES)
    slices = device_slices(devices, config.slices)
    if len(slices) > 1:
        data, *rest = shape
        require(
            data % len(slices) == 0,
            f"The mesh has a data axis of {data}, which {len(slices)} slices do not divide: only the data axis may "
            "cross slices; make data a multiple of their number.",
        )
        within = (data // len(slices), *rest)
        grids = [_grid(within, group) for group in slices]
        return Mesh(np.concatenate(grids), AXES, axis_types=auto)
    return Mesh(_grid(shape, devices), AXES, axis_types=auto)


def compute_dtype(mesh: Mesh, dtype: Any = None) -> np.dtype:
    """The type that networks compute in: `dtype`, or for None bfloat16 on accelerators and float32 on a CPU.

    Raises UserError for any other type.
    """
    if dtype is None:
        dtype = "float32" if mesh.devices.flat[0].platform == "cpu" else "bfloat16"
    name = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    require(name in DTYPES, f"Networks compute in {' or '.join(DTYPES)}, not in '{name}'.")
    return jnp.dtype(name)


def device_slices(devices: Sequence[Any], count: int = 0) -> list[list[Any]]:
    """`devices` by slice, in the order of the slices' numbers.

    count: of slices; 0 takes the slices of a TPU, and for others, whose nodes have a fast network, one. Devices that do
    not say where they belong are cut in order. Raises UserError when the slices are unequal or of another number.
    """
    if count == 1 or (count == 0 and devices[0].platform != "tpu"):
        return [list(devices)]
    numbers = [getattr(d, "slice_index", None) or 0 for d in devices]
    groups = [[d for d, n in zip(devices, numbers, strict=True) if n == number] for number in sorted(set(numbers))]
    if len(groups) == 1 and count > 1:
        require(len(devices) % count == 0, f"{len(devices)} devices do not make {count} equal mesh.slices.")
        size = len(devices) // count
        return [list(devices[i : i + size]) for i in range(0, len(devices), size)]
    require(count in (0, len(groups)), f"mesh.slices is {count}, but the devices are of {len(groups)} slices.")
    require(
        len({len(group) for group in groups}) == 1,
        f"The slices have {', '.join(str(len(group)) for group in groups)} devices; a mesh needs equal ones.",
    )
    return groups


def _grid(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """The devices in the order that suits their network."""
    if len(devices) == 1:
        return np.array(devices).reshape(shape)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices).devices
