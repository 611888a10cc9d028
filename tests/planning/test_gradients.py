"""The TPU compiler sums weight gradients in float32 and gathers weights in bfloat16, in a stack of layers."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.models.layers import Linear, abstract_params
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import batch_like
from ltx_jax.parallel.rules import constrain
from ltx_jax.planning.topology import topology
from ltx_jax.training.config import StageConfig
from ltx_jax.training.step import make_train_program

pytest.importorskip("libtpu", reason="libtpu is not installed (extra `plan`)")
WIDTH, HIDDEN = 512, 1024


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(Linear(HIDDEN, ("embed", "mlp"), True, jnp.bfloat16, name="up")(x))
        out = Linear(WIDTH, ("mlp", "embed"), True, jnp.bfloat16, name="down")(hidden)
        return constrain(x + out, "batch", None, None), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Layer, prevent_cse=False, policy=jax.checkpoint_policies.nothing_saveable)
        stack = nn.scan(
            layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )  # fmt: skip
        return stack(name="blocks")(x)[0]


def collectives(gradient_dtype, sizes):
    """(kind, type, elements) of every collective of the compiled step that moves more than a vector."""
    mesh = make_mesh(MeshConfig(*sizes), topology("v6e:2x2").devices)
    model, config = Stack(), StageConfig(batch_size=4, dtype="bfloat16", gradient_dtype=gradient_dtype, ema_decay=0.0)
    batch = batch_like({"x": jax.ShapeDtypeStruct((4, 256, WIDTH), jnp.bfloat16)}, mesh)

    def objective(params, frozen, batch, at):
        y = model.apply({"params": params}, batch["x"])
        return jnp.mean(y.astype(jnp.float32) ** 2), {}

    with jax.set_mesh(mesh):
        shapes, axes = abstract_params(model, np.zeros((1, 2, WIDTH), jnp.bfloat16))
    text = make_train_program(objective, config, shapes, axes, {}, batch, mesh).compile().as_text()
    found = set()
    pattern = r"= (\(?[^=]*?) (all-gather|all-reduce|reduce-scatter)(?:-start)?\("
    for types, kind in re.findall(pattern, text):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]+)\]", types):
            sizes = [int(n) for n in shape.split(",") if int(n) > 1]
            if len(sizes) > 1:
                found.add((kind, dtype))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 4, 1, 1), (2, 2, 1, 1)], ids=str)
@pytest.mark.parametrize("gradient_dtype, short", [("float32", "f32"), ("bfloat16", "bf16")])
def test_weights_travel_in_bfloat16_and_gradients_as_asked(gradient_dtype, short, sizes):
    found = collectives(gradient_dtype, sizes)
    assert {dtype for kind, dtype in found if kind == "all-gather"} == {"bf16"}
    assert {dtype for kind, dtype in found if kind != "all-gather"} == {short}
