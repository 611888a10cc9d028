"""Device meshes: the only place that makes them.

Axes are (data, fsdp, context, tensor), all of type Auto. One device is also a mesh, so the same program runs on a
laptop and on a pod; only the mesh changes.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from ltx_jax.config import require
from ltx_jax.errors import UserError

AXES = ("data", "fsdp", "context", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1, meaning all remaining devices."""

    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = self.sizes
        require(
            all(s == -1 or s >= 1 for s in sizes), f"Mesh axes must be at least 1 (or -1 for the rest), not {sizes}."
        )
        require(sizes.count(-1) <= 1, f"At most one mesh axis may be -1, not {sizes}.")

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


def make_mesh(config: MeshConfig = MeshConfig(), devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all of them). Enter it with `jax.set_mesh`. Raises UserError as `mesh_shape`."""
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(config, len(devices))
    auto = (AxisType.Auto,) * len(AXES)
    if len(devices) == 1:
        return Mesh(np.array(devices).reshape(shape), AXES, axis_types=auto)
    return jax.make_mesh(shape, AXES, axis_types=auto, devices=devices)
