"""The objective takes modes of every structure alone, and says what its batches must hold."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny_release

from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.errors import UserError
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.training.config import DiTStageConfig, ReferenceConfig
from ltx_jax.training.dit.objective import make_dit_objective, make_dit_program
from ltx_jax.training.lora import LoRAConfig
from ltx_jax.training.modes import MODES

SHAPE = VideoShape(5, 16, 16, 8.0)
STAGE = DiTStageConfig(batch_size=2, lora=LoRAConfig(rank=2))


def mesh():
    return make_mesh(MeshConfig(), jax.devices()[:1])


# One mode of every structure: streams missing, frozen, with references, with masks.
STRUCTURES = ("text_to_audio", "video_to_audio", "text_to_video_silent", "audio_video_reference", "audio_inpainting")


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_can_be_trained_alone(name):
    """Traced, not run: which losses there are, and which tokens a batch must bring."""
    stage = dataclasses.replace(STAGE, mode=name)
    objective = make_dit_objective(tiny_release(), stage, SHAPE, mesh(), 0)
    arguments = make_dit_program(tiny_release(), stage, SHAPE, mesh()).arguments
    state, frozen, batch = arguments["state"], arguments["frozen"], arguments["batch"]
    with jax.set_mesh(mesh()):
        _, metrics = jax.eval_shape(objective, state.params, frozen, batch, jax.ShapeDtypeStruct((), jnp.int32))
    mode = MODES[name]
    streams = {m: mode.stream(m) for m in ("video", "audio")}
    assert {m for m in streams if f"loss_{m}" in metrics} == {m for m, s in streams.items() if s and s.is_generated}
    assert {m for m in streams if f"{m}_reference" in batch} == {m for m, s in streams.items() if s and s.reference}
    assert set(state.params) == {"lora"} and set(frozen["params"]) == {"transformer", "connectors"}


def test_stored_masks_are_asked_for():
    stage = dataclasses.replace(STAGE, modes=("video_inpainting", "audio_inpainting"), stored_masks=True)
    batch = make_dit_program(tiny_release(), stage, SHAPE, mesh()).arguments["batch"]
    assert batch["video_mask"].shape == batch["video"].shape[:2]
    assert batch["audio_mask"].shape == batch["audio"].shape[:2]


def test_references_that_do_not_fit_are_refused():
    for small in (ReferenceConfig(downscale=3), ReferenceConfig(temporal=3), ReferenceConfig(temporal=4)):
        stage = dataclasses.replace(STAGE, mode="video_reference", reference=small)
        with pytest.raises(UserError, match="reference"):
            make_dit_objective(tiny_release(), stage, SHAPE, mesh(), 0)
