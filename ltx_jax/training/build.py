"""From configuration to the stages that the loop runs: programs, data, frozen parts, previews."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ltx_jax.bundle import abstract_parts, initial_parts, networks_on
from ltx_jax.codec import AUDIO_ENCODER, VIDEO_ENCODER
from ltx_jax.config import to_mapping
from ltx_jax.data.config import DataConfig
from ltx_jax.data.encoded.mixture import Mixture
from ltx_jax.data.pipeline import Batches
from ltx_jax.data.raw.item import Source, collate
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.parallel.multihost import batch_share
from ltx_jax.parallel.program import Program, batch_like, place, replicated
from ltx_jax.parts import config_names
from ltx_jax.releases import Release
from ltx_jax.training.autoencoders import objectives as vae
from ltx_jax.training.autoencoders.preview import audio_preview, video_preview
from ltx_jax.training.config import DiTStageConfig, StageName, TrainingConfig
from ltx_jax.training.dit.objective import DIT_PARTS, trainable_parts
from ltx_jax.training.loop import Stage
from ltx_jax.training.optimizer import make_optimizer
from ltx_jax.training.state import TrainState, initial_state
from ltx_jax.training.step import make_train_program

Params = Mapping[str, Any]
# (parameters of all parts by name, step, folder): writes samples of the model so far.
SampleCallback = Callable[[dict[str, Any], int, Path], None]

# The configurations that a stage's weights depend on.
DEPENDS: dict[StageName, tuple[str, ...]] = {
    "video_vae": tuple(config_names(*vae.VIDEO_PARTS)),
    "audio_vae": tuple(config_names(*vae.AUDIO_PARTS)),
    "dit": (*config_names(*DIT_PARTS, *VIDEO_ENCODER, *AUDIO_ENCODER), "text_length"),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all stages of a run share. latents: where the encoded clips lie. sample: shows the transformer's work."""

    release: Release
    config: TrainingConfig
    data: DataConfig
    mesh: Mesh
    source: Source | Mixture
    tokenizer: Tokenizer | None
    latents: Path
    sample: SampleCallback | None = None

    @property
    def shape(self) -> VideoShape:
        """The clips' size."""
        return VideoShape(self.data.frames, self.data.height, self.data.width, self.data.fps)

    def identity(self, name: StageName) -> dict[str, Any]:
        """The configuration that checkpoints of a stage must agree with, JSON-able."""
        model = {key: to_mapping(getattr(self.release, key)) for key in DEPENDS[name]}
        stage = to_mapping(self.config.stage(name))
        data = {k: v for k, v in to_mapping(self.data).items() if k not in ("workers", "on_error")}
        return {"model": model, "data": data, "training": {"seed": self.config.seed, name: stage}}

    def batches(self, rows: Any, size: int, make_batch: Callable, workers: int = 0) -> Batches:
        """Batches of `rows` in the order of the data seed, this process's share."""
        share, shares = batch_share(self.mesh, size)
        return Batches(
            rows, self.data.seed, size, make_batch, workers=workers, process_index=share, process_count=shares,
        )  # fmt: skip


def make_initializer(
    setting: Setting, program: Program, name: StageName, random: Callable[[], Params], start: Params | None, axes: Any
) -> Callable[[], TrainState]:
    """The maker of a stage's first state: parameters of `random`, or those of `start` where it is given.

    axes: logical axes of the parameters.
    """
    config, abstract = setting.config.stage(name), program.arguments["state"]
    optimizer = make_optimizer(config.optimizer, axes)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)

    def initialize() -> TrainState:
        with jax.set_mesh(setting.mesh):
            if start is None:
                params = jax.jit(random, out_shardings=shardings.params)()
            else:  # what is measured of a finished stage, or stays frozen, comes along and is not trained
                params = place({part: start[part] for part in abstract.params}, abstract.params)
            make = functools.partial(initial_state, optimizer=optimizer, config=config)
            return jax.jit(make, out_shardings=shardings)(params)

    return initialize


# --- autoencoders ---------------------------------------------------------------------------------------------------


def vae_stage(setting: Setting, name: StageName, start: Params | None) -> Stage:
    """The stage `video_vae` or `audio_vae`."""
    release, data, config = setting.release, setting.data, setting.config.stage(name)
    nets = networks_on(setting.mesh, release, config.dtype)
    if name == "video_vae":
        vae.check_video_stage(release, config, data.frames)  # type: ignore[arg-type]
        objective, parts = vae.VideoVAEObjective(nets, config, setting.config.seed), vae.VIDEO_PARTS  # type: ignore[arg-type]
        shapes = {"video": ((data.frames, data.height, data.width, 3), jnp.uint8)}
        preview = functools.partial(video_preview, setting, nets)
    else:
        vae.check_audio_stage(release, config, data.audio_samples)  # type: ignore[arg-type]
        objective, parts = vae.AudioVAEObjective(nets, config, setting.config.seed), vae.AUDIO_PARTS  # type: ignore[arg-type]
        shapes = {"audio": ((2, data.audio_samples), jnp.float32), "has_audio": ((), jnp.bool_)}
        preview = functools.partial(audio_preview, setting, nets)
    batch = {k: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype) for k, (shape, dtype) in shapes.items()}
    with jax.set_mesh(setting.mesh):
        abstract, axes = abstract_parts(nets, parts)
    program = make_train_program(objective, config, abstract, axes, {}, batch_like(batch, setting.mesh), setting.mesh)
    random = lambda: initial_parts(nets, parts, setting.config.seed)
    return Stage(
        name=name, config=config, program=program, frozen={},
        initialize=make_initializer(setting, program, name, random, start, axes),
        batches=lambda: setting.batches(setting.source, config.batch_size, collate, data.workers),
        identity=setting.identity(name), preview=preview,
    )  # fmt: skip


def statistics(setting: Setting, name: StageName, stage: Stage, weights: Params) -> dict[str, np.ndarray]:
    """Mean and std of the latents that `weights` make of the first batches of the data."""
    nets = networks_on(setting.mesh, setting.release, stage.config.dtype)
    moments = vae.video_moments if name == "video_vae" else vae.audio_moments
    measure = jax.jit(functools.partial(moments, nets), out_shardings=replicated(setting.mesh))
    abstract = stage.program.arguments["batch"]
    batches = stage.batches()
    count = stage.config.statistics_batches  # type: ignore[attr-defined]
    with jax.set_mesh(setting.mesh):
        hosts = (place(pick(batches.at(i), abstract), abstract) for i in range(count))  # type: ignore[attr-defined]
        return vae.latent_statistics(lambda batch: measure(weights, batch), hosts)


def pick(batch: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `batch` that `wanted` names."""
    return {name: batch[name] for name in wanted}


def stage_parts(name: StageName, config: DiTStageConfig) -> tuple[str, ...]:
    """Names of the parts that a stage trains and leaves behind."""
    return {"video_vae": vae.VIDEO_PARTS, "audio_vae": vae.AUDIO_PARTS, "dit": trainable_parts(config)}[name]
