"""Programs are built from shapes alone, run on any mesh, and give their donated arguments back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import batch_like, make_program, place, replicated_like


def shift(state, batch):
    return state + jnp.sum(batch["x"]), {"sum": jnp.sum(batch["x"])}


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (4, 1, 1, 1), (2, 2, 2, 1)], ids=str)
def test_a_program_runs_on_every_mesh(sizes):
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    state, batch = np.zeros(3, np.float32), {"x": np.arange(24, dtype=np.float32).reshape(8, 3)}
    arguments = {"state": replicated_like(state, mesh), "batch": batch_like(batch, mesh)}
    program = make_program(shift, arguments, mesh, donate=["state"])
    placed = place({"state": state, "batch": batch}, arguments)
    result, metrics = program.compile()(placed["state"], placed["batch"])
    np.testing.assert_array_equal(result, [276.0] * 3)
    assert float(metrics["sum"]) == 276
    assert placed["state"].is_deleted() and not placed["batch"]["x"].is_deleted()


def test_arguments_have_the_names_that_the_function_gives_them():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    x = replicated_like(np.zeros(3, np.float32), mesh)
    for names in (("batch", "state"), ("state", "x")):
        with pytest.raises(AssertionError, match="does not take"):
            make_program(shift, dict.fromkeys(names, x), mesh)
    with pytest.raises(AssertionError, match="must be among"):
        make_program(shift, {"state": x, "batch": {"x": x}}, mesh, weights=["params"])


def test_a_batch_that_the_mesh_does_not_divide_is_replicated():
    mesh = make_mesh(MeshConfig(4, 2, 1, 1), jax.devices()[:8])
    shardings = [batch_like(np.zeros((b, 2)), mesh).sharding for b in (8, 4, 3)]
    assert [s.shard_shape((b, 2))[0] for s, b in zip(shardings, (8, 4, 3), strict=True)] == [1, 1, 3]


def test_arrays_are_arguments_not_constants():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    state = replicated_like(np.zeros(1000, np.float32), mesh)
    arguments = {"state": state, "batch": batch_like({"x": np.zeros((4, 3))}, mesh)}
    text = make_program(shift, arguments, mesh).lower().as_text()
    assert "tensor<1000xf32>" in text and "dense_resource" not in text
