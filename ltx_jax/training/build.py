"""From configuration to the stages that the loop runs: programs, data, frozen parts, previews."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ltx_jax.bundle import Modules, audio_tokens, modules, video_tokens
from ltx_jax.config import require, to_mapping
from ltx_jax.data.config import DataConfig
from ltx_jax.data.latents import LatentStore, encode_clips
from ltx_jax.data.pipeline import Batches
from ltx_jax.data.source import Source, collate
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.parallel.program import Program, batch_like, place
from ltx_jax.releases import Release
from ltx_jax.training import vae
from ltx_jax.training.config import DiTStage, StageName, TrainingConfig
from ltx_jax.training.dit import abstract_batch, dit_tables, make_dit_objective, make_dit_program, trainable_parts
from ltx_jax.training.loop import Stage
from ltx_jax.training.optimizer import make_optimizer
from ltx_jax.training.parts import abstract_parts, initial_parts
from ltx_jax.training.preview import audio_preview, video_preview
from ltx_jax.training.state import TrainState, initial_state
from ltx_jax.training.step import make_train_program

Params = Mapping[str, Any]
# (parameters of all parts by name, step, folder): writes samples of the model so far.
SampleCallback = Callable[[dict[str, Any], int, Path], None]

# The part configurations that a stage's weights depend on.
DEPENDS: dict[StageName, tuple[str, ...]] = {
    "video_vae": ("video_vae",),
    "audio_vae": ("audio_vae", "vocoder"),
    "dit": ("text", "connectors", "transformer", "video_vae", "audio_vae", "text_length"),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all stages of a run share. latents: where the encoded clips lie. sample: shows the transformer's work."""

    release: Release
    config: TrainingConfig
    data: DataConfig
    mesh: Mesh
    source: Source
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
        """Batches of `rows` in the order of the data seed, this host's share."""
        return Batches(
            rows, self.data.seed, size, make_batch, workers=workers,
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip


def networks(release: Release, dtype: str, mesh: Mesh) -> Modules:
    """The release's networks computing in `dtype`, in the form that suits the mesh's devices."""
    return modules(release, dtype=jnp.dtype(dtype), platform=mesh.devices.flat[0].platform)


def make_initializer(
    setting: Setting, program: Program, parts: Sequence[str], nets: Modules, name: StageName, start: Params | None
) -> Callable[[], TrainState]:
    """The maker of a stage's first state: random parameters, or `start` (by part) where another model's are given."""
    config, abstract = setting.config.stage(name), program.abstract_args[0]
    optimizer, ema = make_optimizer(config.optimizer), config.ema_decay > 0
    shardings = jax.tree.map(lambda x: x.sharding, abstract)

    def initialize() -> TrainState:
        with jax.set_mesh(setting.mesh):
            if start is None:
                random = lambda: initial_parts(setting.release, nets, parts, setting.config.seed)
                params = jax.jit(random, out_shardings=shardings.params)()
            else:
                params = place({part: start[part] for part in parts}, abstract.params)
            make = functools.partial(initial_state, optimizer=optimizer, ema=ema)
            return jax.jit(make, out_shardings=shardings)(params)

    return initialize


# --- autoencoders ---------------------------------------------------------------------------------------------------


def vae_stage(setting: Setting, name: StageName, start: Params | None) -> Stage:
    """The stage `video_vae` or `audio_vae`."""
    release, data, config = setting.release, setting.data, setting.config.stage(name)
    nets = networks(release, config.dtype, setting.mesh)
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
        abstract, axes = abstract_parts(release, nets, parts)
    program = make_train_program(
        objective, config, abstract, axes, {}, batch_like(batch, setting.mesh), setting.mesh
    )  # fmt: skip
    return Stage(
        name=name, config=config, program=program, frozen={},
        initialize=make_initializer(setting, program, parts, nets, name, start),
        batches=lambda: setting.batches(setting.source, config.batch_size, collate, data.workers),
        identity=setting.identity(name), preview=preview,
    )  # fmt: skip


def statistics(setting: Setting, name: StageName, stage: Stage, weights: Params) -> dict[str, np.ndarray]:
    """Mean and std of the latents that `weights` make of the first batches of the data."""
    nets = networks(setting.release, stage.config.dtype, setting.mesh)
    moments = vae.video_moments if name == "video_vae" else vae.audio_moments
    measure = jax.jit(functools.partial(moments, nets))
    abstract = stage.program.abstract_args[2]
    batches = stage.batches()
    count = stage.config.statistics_batches  # type: ignore[attr-defined]
    with jax.set_mesh(setting.mesh):
        hosts = (place(pick(batches.at(i), abstract), abstract) for i in range(count))  # type: ignore[attr-defined]
        return vae.latent_statistics(lambda batch: measure(weights, batch), hosts)


def pick(batch: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `batch` that `wanted` names."""
    return {name: batch[name] for name in wanted}


# --- transformer ----------------------------------------------------------------------------------------------------


def dit_stage(setting: Setting, start: Params | None, encoders: Params) -> Stage:
    """The stage `dit`. encoders: the parameters of the trained autoencoders; clips are encoded here, once."""
    release, config, mesh = setting.release, setting.config.dit, setting.mesh
    tokenizer = setting.tokenizer
    require(config.train_text, "Training on cached text features is not supported by train.py yet; set train_text.")
    require(tokenizer is not None, "Training the transformer needs a tokenizer.")
    assert tokenizer is not None
    objective = make_dit_objective(release, config, setting.shape, mesh, setting.config.seed)
    program = make_dit_program(release, config, setting.shape, mesh, setting.config.seed)
    store = encode(setting, encoders, objective.audio_tokens)
    ids, mask = tokenizer([""])
    tables = dit_tables(release, objective, setting.data.fps)
    frozen = {"params": {}, "tables": tables, "empty": {"text_ids": ids[0], "text_mask": mask[0]}}
    wanted = abstract_batch(release, objective)[0]
    require(
        store.item(0, 0)["video"].shape == wanted["video"].shape[1:],
        f"The encoded clips in '{setting.latents}' have another size than the config says; delete that folder.",
    )
    preview = None
    if setting.sample is not None:
        sample = setting.sample
        preview = lambda state, step, folder: sample({**encoders, **jax.device_get(state.weights)}, step, folder)
    return Stage(
        name="dit", config=config, program=program, frozen=place(frozen, program.abstract_args[1]),
        initialize=make_initializer(setting, program, trainable_parts(config), objective.networks, "dit", start),
        batches=lambda: setting.batches(store, config.batch_size, TokenBatch(tokenizer)),
        identity=setting.identity("dit"), preview=preview,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """Collates encoded clips, with their captions as token ids."""

    tokenizer: Tokenizer

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        batch = collate(items)
        ids, mask = self.tokenizer(batch.pop("caption"))
        return batch | {"text_ids": ids, "text_mask": mask}


def encode(setting: Setting, encoders: Params, length: int, batch: int = 16) -> LatentStore:
    """The clips as normalised tokens on disk, encoded with the trained autoencoders; `length` audio tokens each."""
    nets = networks(setting.release, "float32", setting.mesh)
    pixels = lambda params, video: video_tokens(nets, params, vae.pixels(video))
    sound = lambda params, waveform: audio_tokens(nets, params, waveform, length)
    encode_video, encode_audio = jax.jit(pixels), jax.jit(sound)

    def both(video: np.ndarray, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        abstract = batch_like({"video": video, "audio": audio}, setting.mesh)
        with jax.set_mesh(setting.mesh):
            placed = place({"video": video, "audio": audio}, abstract)
            tokens = encode_video(encoders, placed["video"]), encode_audio(encoders, placed["audio"])
        return np.asarray(tokens[0]), np.asarray(tokens[1])

    names = ("video_encoder", "video_statistics", "audio_encoder", "audio_statistics")
    encoders = {name: encoders[name] for name in names}
    fingerprint = f"{setting.source.fingerprint} {checksum(encoders)} {setting.config.dit.clips}"
    return encode_clips(setting.source, both, setting.config.dit.clips, setting.latents, fingerprint, batch=batch)


def checksum(tree: Any) -> str:
    """A number for the bits of all arrays of `tree`."""
    value = 0
    for leaf in jax.tree.leaves(tree):
        value = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), value)
    return f"{value:08x}"


def stage_parts(name: StageName, config: DiTStage) -> tuple[str, ...]:
    """Names of the networks that a stage trains."""
    return {"video_vae": vae.VIDEO_PARTS, "audio_vae": vae.AUDIO_PARTS, "dit": trainable_parts(config)}[name]
