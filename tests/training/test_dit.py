"""The objective takes modes of every structure alone, and says what its batches must hold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_release

from ltx_jax.diffusion.geometry import VideoShape, keyframe_positions
from ltx_jax.errors import UserError
from ltx_jax.models.dit.rope import gather_tables, rotary_tables
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.training.config import DiTStageConfig, ReferenceConfig
from ltx_jax.training.dit.inputs import clip_sizes, dit_tables
from ltx_jax.training.dit.objective import make_dit_objective, make_dit_program
from ltx_jax.training.lora import LoRAConfig
from ltx_jax.training.modes import MODES

SHAPE = VideoShape(5, 16, 16, 8.0)
STAGE = DiTStageConfig(batch_size=2, lora=LoRAConfig(rank=2))


def mesh():
    return make_mesh(MeshConfig(), jax.devices()[:1])


# One mode of every structure: streams missing, frozen, with references, with masks.
STRUCTURES = (
    "keyframes",
    "text_to_audio",
    "video_to_audio",
    "text_to_video_silent",
    "audio_video_reference",
    "audio_inpainting",
)


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


def test_stills_stand_where_sampling_puts_key_frames():
    """The rotary tables' rows of a still are those of the frame's key frame in sampling, behind clip and reference."""
    stage = DiTStageConfig(modes=("video_reference", "keyframes"), reference=ReferenceConfig(2, 2), keyframes=3)
    shape, config = VideoShape(9, 32, 48, 8.0), tiny_release().transformer
    sizes = clip_sizes(tiny_release(), stage, shape)
    tables = dit_tables(tiny_release(), sizes, stage, shape.fps)
    first = sizes.video_tokens + sizes.reference_tokens
    gather = lambda table: [x[0] for x in gather_tables(table, 2, 12)]
    for frame in (0, 3, 8):
        rows = slice(first + frame * sizes.still_tokens, first + (frame + 1) * sizes.still_tokens)
        positions = keyframe_positions((1, *sizes.grid[1:]), frame, shape.fps, tiny_release().video_vae.scale_factors)
        wanted = rotary_tables(config, positions, np.zeros((1, 1, 1, 2), np.float32))["video"]
        for ours, theirs in zip(gather(tables["video"]), gather(wanted), strict=True):
            np.testing.assert_array_equal(ours[rows], theirs)
    assert sizes.padded == sizes.video_tokens + 3 * sizes.still_tokens


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
