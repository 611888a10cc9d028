"""One training step gives the same loss and gradients on every mesh (float32)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from tiny import tiny_release

from ltx_jax.bundle import abstract_parts
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import place
from ltx_jax.training.config import DiTStageConfig
from ltx_jax.training.dit.inputs import abstract_batch, dit_tables
from ltx_jax.training.dit.objective import frozen_parts, make_dit_objective, make_dit_program, trainable_parts
from ltx_jax.training.lora import LoRAConfig, initial_lora
from ltx_jax.training.modes import MODES

SHAPE = VideoShape(
    5, 24, 40, 8.2
)  # latents (3, 3, 5): 45 video tokens, which context 2 does not divide; 15 audio tokens
UNOPTIMISED = {"xla_backend_optimization_level": 0}  # compiles in half the time
CONFIG = DiTStageConfig(batch_size=8, first_frame_probability=0.5, caption_dropout=0.3)
# Every mode, references behind the video tokens (45 + 45), adapters beside frozen weights, text features given.
MIXTURE = dataclasses.replace(CONFIG, modes=tuple(MODES), lora=LoRAConfig(rank=2, alpha=4, dropout=0.2))


def host_batch(release, objective, rng):
    shapes, empty = abstract_batch(release, objective.sizes, objective.config)

    def fill(name, x):
        if name == "text_mask":
            return np.broadcast_to(np.arange(x.shape[-1]) >= 5, x.shape).astype(np.int32)  # left padded
        if name == "has_audio":
            return np.arange(x.shape[0]) % 3 != 0
        if name == "text_ids":
            return rng.integers(3, 500, x.shape).astype(np.int32)
        if name == "keyframes":
            return rng.integers(0, SHAPE.frames, x.shape).astype(np.int32)
        return rng.normal(size=x.shape).astype(np.float32)

    return {k: fill(k, x) for k, x in shapes.items()}, {k: fill(k, x) for k, x in empty.items()}


@functools.cache
def loss_and_gradients(sizes, shape=SHAPE, config=CONFIG):
    release = tiny_release()
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    objective = make_dit_objective(release, config, shape, mesh, seed=3)
    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        program = make_dit_program(release, config, shape, mesh, seed=3)
        state, frozen_like, batch_like = (program.arguments[name] for name in ("state", "frozen", "batch"))
        parts = [part for part in (*trainable_parts(config), *frozen_parts(config)) if part != "lora"]
        params = drawn(abstract_parts(objective.networks, parts)[0])
        if config.lora is not None:
            params["lora"] = initial_lora(state.params["lora"], 0)
        # a young model answers nearly zero; give every weight a part in the loss
        params = jax.tree.map(
            lambda p: p + 0.05 * jnp.cos(jnp.arange(p.size, dtype=jnp.float32)).reshape(p.shape), params
        )
        fixed = {part: params.pop(part) for part in frozen_parts(config)}
        params = place(params, state.params)
        batch, empty = host_batch(release, objective, np.random.default_rng(1))
        frozen = {"params": fixed, "tables": dit_tables(release, objective.sizes, config, shape.fps), "empty": empty}
        frozen, batch = place(frozen, frozen_like), place(batch, batch_like)
        step = jax.jit(jax.value_and_grad(objective, has_aux=True))
        arguments = (params, frozen, batch, jnp.int32(5))
        (loss, _), gradients = step.lower(*arguments).compile(UNOPTIMISED)(*arguments)
    return float(loss), jax.device_get(gradients)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((8, 1, 1, 1), marks=pytest.mark.slow),
        pytest.param((1, 8, 1, 1), marks=pytest.mark.slow),
        pytest.param((2, 2, 2, 1), marks=pytest.mark.slow),
        (1, 2, 2, 2),
    ],
    ids=str,
)
def test_every_mesh_gives_the_gradients_of_one_device(sizes):
    check_against_one_device(sizes, CONFIG)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 4, 1, 1), (1, 2, 2, 2)], ids=str)
def test_a_mixture_of_all_modes_and_its_adapters_agree_on_every_mesh(sizes):
    check_against_one_device(sizes, MIXTURE)


def check_against_one_device(sizes, config):
    loss, gradients = loss_and_gradients(sizes, config=config)
    expected_loss, expected = loss_and_gradients((1, 1, 1, 1), config=config)
    assert abs(loss - expected_loss) <= 1e-5 * abs(expected_loss)
    for path, wanted in jax.tree_util.tree_leaves_with_path(expected):
        got = functools.reduce(lambda tree, key: tree[key.key], path, gradients)
        size = np.linalg.norm(wanted)
        assert np.linalg.norm(got - wanted) <= 1e-5 * size + 1e-12, jax.tree_util.keystr(path)
        assert size > 0, f"no gradient at {jax.tree_util.keystr(path)}"
