"""What is planned: a mode and its sizes, and the programs of `train.py` and `sample.py` that it means.

Every program comes from the same call that the run makes; nothing here is a sketch of one.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from ltx_jax import codec
from ltx_jax.bundle import Networks, networks_on
from ltx_jax.data.preparation.encode import encoder_networks
from ltx_jax.diffusion import schedules
from ltx_jax.diffusion.geometry import VideoShape, audio_length
from ltx_jax.diffusion.guidance import PASSES, Guidance
from ltx_jax.diffusion.sample import SamplerState, SamplingPlan, make_plan
from ltx_jax.errors import require
from ltx_jax.experiment import Experiment
from ltx_jax.models.storage import Storage
from ltx_jax.parallel.flops import jaxpr_flops
from ltx_jax.parallel.mesh import compute_dtype
from ltx_jax.parallel.program import Program
from ltx_jax.pipelines import programs
from ltx_jax.pipelines.decoding import decode_programs
from ltx_jax.pipelines.states import empty_audio, empty_video, make_state
from ltx_jax.releases import Release
from ltx_jax.training.config import DiTStageConfig
from ltx_jax.training.dit.objective import make_dit_program
from ltx_jax.training.lora import LoRAConfig

Mode = Literal["train", "sample", "decode", "encode"]


@dataclasses.dataclass(frozen=True)
class Workload:
    """mode: which program. shape: of the clips. batch: of all devices; None: one per batch shard (data x fsdp).

    steps: of the sampling loop; passes: network passes of each step, run in one call. lora: train adapters alone.
    dtype: of the weights and the compute of sampling and decoding, None: see `compute_dtype`; training says its own.
    storage: how weights lie on the devices, of sampling and decoding.
    """

    mode: Mode
    shape: VideoShape
    batch: int | None = None
    steps: int = 8
    passes: int = 1
    lora: bool = False
    dtype: str | None = None
    storage: Storage = Storage()

    def __post_init__(self):
        require(self.mode in get_args(Mode), f"There is no mode '{self.mode}' to plan.")
        require(self.batch is None or self.batch >= 1, f"The batch must be at least 1, not {self.batch}.")
        require(self.steps >= 1, f"Sampling needs at least one step, not {self.steps}.")
        require(1 <= self.passes <= len(PASSES), f"passes must lie in 1..{len(PASSES)}, not {self.passes}.")
        require(self.mode == "train" or not self.lora, "--lora belongs to --mode=train.")
        require(
            self.storage == Storage() or self.mode in ("sample", "decode"),
            "--quantization and --offload belong to --mode=sample and --mode=decode.",
        )

    def size(self, mesh: Mesh) -> int:
        """Samples per step of all devices."""
        return self.batch or mesh.shape["data"] * mesh.shape["fsdp"]

    @property
    def trips(self) -> int:
        """Runs of a loop whose bounds are arguments: that of the sampler."""
        return self.steps if self.mode == "sample" else 1


def make_programs(experiment: Experiment, workload: Workload, mesh: Mesh) -> dict[str, Program]:
    """The programs of the mode, by name."""
    release, shape = experiment.model, workload.shape
    if workload.mode == "train":
        stage = training_stage(experiment, workload, mesh)
        return {"train step": make_dit_program(release, stage, shape, mesh, experiment.training.seed)}
    if workload.mode == "encode":
        return encoders(release, workload, mesh)
    networks = sampling_networks(experiment, workload, mesh)
    state = sampling_state(experiment, workload, mesh)
    if workload.mode == "sample":
        plan = sampling_plan(experiment, workload)
        return {"sampling loop": programs.make_sample_program(networks, state, plan, mesh)}
    assert state.video is not None and state.audio is not None
    video, audio = state.video.stream.latent, state.audio.stream.latent
    audio_decoder = codec.make_decode_audio_program(networks, audio, mesh)
    return {**decode_programs(networks, shape, video, mesh), "audio decoder": audio_decoder}


def encoders(release: Release, workload: Workload, mesh: Mesh) -> dict[str, Program]:
    """The programs with which clips are prepared."""
    shape, size, dtype = workload.shape, workload.size(mesh), compute_dtype(mesh, workload.dtype)
    networks = encoder_networks(mesh, release, dtype, dtype)
    video = jax.ShapeDtypeStruct((size, shape.frames, shape.height, shape.width, 3), np.uint8)
    samples = int(shape.frames / shape.fps * release.audio_vae.sampling_rate)
    sound = jax.ShapeDtypeStruct((size, 2, samples), np.float32)
    tokens = audio_length(shape.frames, shape.fps)
    return {
        "video encoder": codec.make_encode_video_program(networks, video, mesh),
        "audio encoder": codec.make_encode_audio_program(networks, sound, tokens, mesh),
        "text encoder": codec.make_text_features_program(networks, size, mesh),
    }


def training_stage(experiment: Experiment, workload: Workload, mesh: Mesh) -> DiTStageConfig:
    """The config's stage with the workload's batch, and adapters where it asks for them."""
    stage = dataclasses.replace(experiment.training.dit, batch_size=workload.size(mesh))
    if workload.lora and stage.lora is None:
        stage = dataclasses.replace(stage, lora=LoRAConfig())
    return stage


def sampling_networks(experiment: Experiment, workload: Workload, mesh: Mesh) -> Networks:
    """The networks as the runner makes them, on weights of the workload's type."""
    dtype = compute_dtype(mesh, workload.dtype)
    return networks_on(mesh, experiment.model, dtype, dtype, workload.storage)


def sampling_state(experiment: Experiment, workload: Workload, mesh: Mesh) -> SamplerState:
    """Shapes and shardings of the state of text to video."""
    release, shape = experiment.model, workload.shape
    state = make_state(release, empty_video(release, shape, 1), empty_audio(release, shape, 1), mesh.shape["context"])
    return programs.abstract_state(state, mesh, workload.size(mesh))


def sampling_plan(experiment: Experiment, workload: Workload) -> SamplingPlan:
    """A plan of as many passes as asked for: conditional, then unconditional, then the other kinds."""
    strengths: list[dict[str, Any]] = [{}, {"cfg_scale": 3.0}, {"stg_scale": 1.0}, {"modality_scale": 3.0}]
    settings = {k: v for s in strengths[: workload.passes] for k, v in s.items()}
    guided = Guidance(**settings)
    blocks = experiment.model.transformer.num_layers
    return make_plan(schedules.ltx2(workload.steps), guided, guided, blocks=blocks)


def model_flops(experiment: Experiment, workload: Workload, mesh: Mesh) -> float:
    """FLOPs that the mathematics of one step needs, of all devices: a training step without recomputation, one step of
    the sampler, one decoding."""
    release = experiment.model
    if workload.mode == "train":
        stage = dataclasses.replace(training_stage(experiment, workload, mesh), remat="none")
        found = {"": make_dit_program(release, stage, workload.shape, mesh, experiment.training.seed)}
    else:
        found = make_programs(experiment, workload, mesh)
    return sum(program_flops(program) for program in found.values())


def program_flops(program: Program, trips: int = 1) -> float:
    """FLOPs of a program as it is written, of all devices."""
    return jaxpr_flops(program.trace().jaxpr, trips)
