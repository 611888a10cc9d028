"""Meshes: shapes from configs, and slices that only the data axis crosses."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.parallel.mesh import MeshConfig, device_slices, make_mesh, mesh_shape


def on_slices(*numbers):
    return [SimpleNamespace(id=i, slice_index=n, platform="tpu") for i, n in enumerate(numbers)]


def test_one_axis_takes_the_rest():
    assert mesh_shape(MeshConfig(fsdp=2), 8) == (4, 2, 1, 1)
    assert mesh_shape(MeshConfig(data=1, context=-1), 8) == (1, 1, 8, 1)
    with pytest.raises(UserError, match="does not divide the 8 devices"):
        mesh_shape(MeshConfig(fsdp=3), 8)


def test_devices_are_grouped_by_their_slice():
    groups = device_slices(on_slices(1, 0, 1, 0))
    assert [[d.id for d in group] for group in groups] == [[1, 3], [0, 2]]
    assert [len(g) for g in device_slices(on_slices(0, 0, 0))] == [3]
    with pytest.raises(UserError, match="2, 1 devices"):
        device_slices(on_slices(0, 0, 1))
    with pytest.raises(UserError, match="of 2 slices"):
        device_slices(on_slices(0, 1), count=4)


def test_only_the_data_axis_crosses_slices():
    devices = jax.devices()[:8]
    mesh = make_mesh(MeshConfig(data=4, fsdp=2, slices=2), devices)
    assert mesh.devices.shape == (4, 2, 1, 1)
    ids = np.vectorize(lambda d: d.id)(mesh.devices)
    assert set(ids[:2].flat) == {0, 1, 2, 3} and set(ids[2:].flat) == {4, 5, 6, 7}
    with pytest.raises(UserError, match="only the data axis"):
        make_mesh(MeshConfig(data=1, fsdp=8, slices=2), devices)
    with pytest.raises(UserError, match="do not make 3 equal"):
        make_mesh(MeshConfig(slices=3), devices)
