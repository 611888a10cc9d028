"""The transformer's objective: flow matching of video and audio tokens given text (spec training.md 2 to 4).

Letters: B batch, T video tokens, A audio tokens, S text tokens, C channels, E width of text features.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ltx_jax.bundle import Modules, modules, text_contexts
from ltx_jax.diffusion.conditioning import Grid, select_frames
from ltx_jax.diffusion.geometry import VideoShape, audio_length, audio_positions, latent_shape, video_positions
from ltx_jax.models.dit.rope import rotary_tables
from ltx_jax.parallel.program import Program, batch_like, replicated_like, with_shardings
from ltx_jax.parallel.rules import param_shardings
from ltx_jax.releases import Release
from ltx_jax.streams import Context, Rotary, Stream
from ltx_jax.training.config import DiTStage
from ltx_jax.training.losses import bucket_names, masked_loss, sigma_buckets
from ltx_jax.training.modes import NoisyStream, StreamMode, draw, noise_stream
from ltx_jax.training.parts import abstract_parts
from ltx_jax.training.step import Metrics, make_train_program, sample_keys

Array = jax.Array
Batch = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class DiTObjective:
    """The loss of a batch; `frozen` holds what does not learn: {"params", "tables", "empty"}.

    A batch has video (B, T, C) and audio (B, A, C') clean normalised tokens, has_audio (B,) bool, text_mask (B, S)
    int32, and either text_ids (B, S) int32 or video_features (B, S, E) and audio_features (B, S, E'), the feature
    extractor's output. "empty" is the same text of the empty caption, without the axis B. grid: of the video latents;
    padded: video tokens after padding to a multiple of the mesh's context axis.
    """

    networks: Modules
    config: DiTStage
    grid: Grid
    audio_tokens: int
    padded: int
    cell: tuple[int, int]  # pixels per latent cell, (height, width)
    seed: int

    def __call__(self, params: Any, frozen: Any, batch: Batch, step: Array) -> tuple[Array, Metrics]:
        """Mean over samples of the video loss plus the audio loss, () float32, and metrics."""
        parts, mode = {**frozen["params"], **params}, self.config.training_mode()
        contexts = self._contexts(parts, self._drop_captions(batch, frozen["empty"], step))
        audio_grid = (self.audio_tokens, 1, 1)
        video = self._noise("video", mode.video, batch["video"], self.grid, step)
        audio = self._noise("audio", mode.audio, batch["audio"], audio_grid, step)
        velocities = self.networks["transformer"].apply(
            {"params": parts["transformer"]},
            None if video is None else self._video_stream(video, frozen["tables"]),
            None if audio is None else _stream(audio, frozen["tables"], "audio"),
            *(Context(tokens) for tokens in contexts),
        )
        losses: dict[str, Array] = {}
        if video is not None and video.targets is not None:
            losses["video"] = masked_loss(velocities[0][:, : video.targets.shape[1]], video.targets, video.loss_mask)  # type: ignore
        if audio is not None and audio.targets is not None:
            heard = audio.loss_mask & batch["has_audio"][:, None]  # type: ignore[operator]
            losses["audio"] = masked_loss(velocities[1], audio.targets, heard)  # type: ignore[arg-type]
        total = sum(losses.values(), jnp.zeros(batch["video"].shape[:1], jnp.float32))  # (B,)
        return jnp.mean(total), _metrics(losses, total, batch["has_audio"], video or audio)  # type: ignore[arg-type]

    def _noise(self, name: str, mode: StreamMode | None, x0: Array, grid: Grid, step: Array) -> NoisyStream | None:
        if mode is None:
            return None
        keys = sample_keys(self.seed, f"train.{name}", step, x0.shape[0])
        draws = draw(keys, mode, *x0.shape[1:])
        return noise_stream(mode, x0, draws, grid, sigmas=self.config.sigmas, scale=self.cell)

    def _drop_captions(self, batch: Batch, empty: Batch, step: Array) -> Batch:
        """The batch's text, with the empty caption for a share of the samples."""
        text = {name: batch[name] for name in empty}
        rate = self.config.caption_dropout
        if not rate:
            return text
        keys = sample_keys(self.seed, "train.caption", step, batch["video"].shape[0])
        dropped = jax.vmap(jax.random.uniform)(keys) < rate  # (B,)
        pick = lambda x, e: jnp.where(dropped.reshape(-1, *(1,) * e.ndim), e, x)
        return jax.tree.map(pick, text, empty)

    def _contexts(self, parts: Any, text: Batch) -> tuple[Array, Array]:
        """Video and audio contexts (B, S, E) of ids, or of cached features."""
        if "text_ids" in text:
            return text_contexts(self.networks, parts, text["text_ids"], text["text_mask"])
        features = (text["video_features"], text["audio_features"], text["text_mask"])
        return self.networks["connectors"].apply({"params": parts["connectors"]}, *features, method="connect")  # type: ignore

    def _video_stream(self, noisy: NoisyStream, tables: dict[str, Rotary]) -> Stream:
        """The video stream, padded at its tail so that the mesh's context axis divides it."""
        batch, tokens, _ = noisy.latent.shape
        stream = _stream(noisy, tables, "video")
        if self.config.mark_keyframes:
            first = np.broadcast_to(select_frames(self.grid, 0, 1), (batch, tokens))
            stream = stream.replace(keyframes=jnp.asarray(first))  # type: ignore[attr-defined]
        missing = self.padded - tokens
        if not missing:
            return stream
        pad = lambda x: None if x is None else jnp.pad(x, ((0, 0), (0, missing)) + ((0, 0),) * (x.ndim - 2))
        turn = lambda r: None if r is None else r.replace(index=pad(r.index))
        return stream.replace(  # type: ignore[attr-defined]
            latent=pad(stream.latent), level_index=pad(stream.level_index), keyframes=pad(stream.keyframes),
            rotary=turn(stream.rotary), cross_rotary=turn(stream.cross_rotary),
            length=jnp.full((batch,), tokens, jnp.int32),
        )  # fmt: skip


def _stream(noisy: NoisyStream, tables: dict[str, Rotary], name: str) -> Stream:
    return Stream(
        latent=noisy.latent,
        sigma=noisy.sigma,
        levels=noisy.levels,
        level_index=noisy.level_index,
        rotary=tables[name],
        cross_rotary=tables.get(f"{name}_cross"),
    )


def _metrics(losses: dict[str, Array], total: Array, has_audio: Array, reported: NoisyStream) -> Metrics:
    """Means per modality (audio over the samples that have sound) and by noise level of the video, else the audio.

    An empty bucket, or a batch without sound, reports NaN, which the loop leaves out.
    """
    metrics = {}
    if "video" in losses:
        metrics["loss_video"] = jnp.mean(losses["video"])
    if "audio" in losses:
        metrics["loss_audio"] = jnp.sum(losses["audio"]) / jnp.sum(has_audio)
    means, counts = sigma_buckets(reported.sigma, total)
    means = jnp.where(counts > 0, means, jnp.nan)
    return metrics | {name.removeprefix("train/"): means[i] for i, name in enumerate(bucket_names())}


def make_dit_objective(release: Release, config: DiTStage, shape: VideoShape, mesh: Mesh, seed: int) -> DiTObjective:
    """The objective for clips of one shape."""
    networks = modules(release, dtype=jnp.dtype(config.dtype))
    networks["transformer"] = networks["transformer"].clone(remat=config.remat)
    grid = latent_shape(shape, release.video_vae.scale_factors)
    tokens, context = grid[0] * grid[1] * grid[2], mesh.shape["context"]
    return DiTObjective(
        networks, config, grid, audio_length(shape.frames, shape.fps), -(-tokens // context) * context,
        release.video_vae.scale_factors[1:], seed,
    )  # fmt: skip


def dit_tables(release: Release, objective: DiTObjective, fps: float) -> dict[str, Rotary]:
    """The rotary tables of the clips, host arrays."""
    video = video_positions(*objective.grid, fps, release.video_vae.scale_factors)
    tables = rotary_tables(release.transformer, video, audio_positions(objective.audio_tokens))
    return {name: table for name, table in tables.items() if table is not None}


def trainable_parts(config: DiTStage) -> tuple[str, ...]:
    """Names of the parts that the stage trains."""
    return ("transformer", "text", "connectors") if config.train_text else ("transformer",)


def abstract_batch(release: Release, objective: DiTObjective) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes of a batch and of the empty caption, ShapeDtypeStructs."""
    b, s, dit = objective.config.batch_size, release.text_length, release.transformer
    tokens = objective.grid[0] * objective.grid[1] * objective.grid[2]
    struct = jax.ShapeDtypeStruct
    empty = {"text_mask": struct((s,), jnp.int32)}
    if objective.config.train_text:
        empty["text_ids"] = struct((s,), jnp.int32)
    else:
        connectors, dtype = release.connectors, jnp.dtype(objective.config.dtype)
        for name, sizes in (("video", connectors.video), ("audio", connectors.audio)):
            empty[f"{name}_features"] = struct((s, sizes.width), dtype)
    batch = {
        "video": struct((b, tokens, dit.in_channels), jnp.float32),
        "audio": struct((b, objective.audio_tokens, dit.audio_in_channels), jnp.float32),
        "has_audio": struct((b,), jnp.bool_),
    }
    return batch | {name: struct((b, *x.shape), x.dtype) for name, x in empty.items()}, empty


def make_dit_program(release: Release, config: DiTStage, shape: VideoShape, mesh: Mesh, seed: int = 0) -> Program:
    """The transformer's training step for clips of one shape; abstract, so also for devices that are not there.

    Frozen connectors (config.train_text false) are kept in the compute type.
    """
    objective = make_dit_objective(release, config, shape, mesh, seed)
    with jax.set_mesh(mesh):
        shapes, axes = abstract_parts(release, objective.networks, trainable_parts(config))
        fixed, fixed_axes = abstract_parts(release, objective.networks, () if config.train_text else ("connectors",))
    dtype = jnp.dtype(config.dtype)
    fixed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), fixed)
    batch, empty = abstract_batch(release, objective)
    frozen = {
        "params": with_shardings(fixed, param_shardings(fixed_axes, fixed, mesh)),
        "tables": replicated_like(dit_tables(release, objective, shape.fps), mesh),
        "empty": replicated_like(empty, mesh),
    }
    return make_train_program(objective, config, shapes, axes, frozen, batch_like(batch, mesh), mesh)
