"""The transformer's objective: flow matching of video and audio tokens given text (spec training.md 2 to 4).

Another process (families.md) changes the levels, what the network reads and what it answers.

Letters: B batch, T video tokens, A audio tokens, S text tokens, C channels, E width of text features.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ltx_jax.bundle import Networks, abstract_parts, make_networks
from ltx_jax.codec import TEXT_ENCODER, text_contexts
from ltx_jax.diffusion.conditioning import select_frames
from ltx_jax.diffusion.families.network import Process, find_process
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.parallel.program import Program, batch_like, replicated_like, with_shardings
from ltx_jax.parallel.rules import param_shardings
from ltx_jax.releases import Release
from ltx_jax.streams import Context, Rotary, Stream
from ltx_jax.training.config import DiTStageConfig
from ltx_jax.training.dit.inputs import ClipSizes, abstract_batch, clip_sizes, dit_tables, mask_folders
from ltx_jax.training.dit.losses import bucket_names, masked_loss, sigma_buckets
from ltx_jax.training.dit.noise import Draws, KeyFrames, NoisyStream, choose, draw, draw_masks, mix, noise_stream
from ltx_jax.training.lora import PART as LORA
from ltx_jax.training.lora import abstract_lora, scaled, with_dropout
from ltx_jax.training.modes import Mode, WeightedMode, fit_mode
from ltx_jax.training.step import Metrics, make_train_program, sample_keys

Array = jax.Array
DIT_PARTS = ("transformer", *TEXT_ENCODER)  # what the stage may train
Batch = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class DiTObjective:
    """The loss of a batch; `frozen` holds what does not learn: {"params", "tables", "empty"}.

    A batch has video (B, T, C) and audio (B, A, C') clean normalised tokens, has_audio (B,) bool, text_mask (B, S)
    int32, and either text_ids (B, S) int32 or video_features (B, S, E) and audio_features (B, S, E'), the feature
    extractor's output. Where a mode asks for them: video_reference (B, R, C), audio_reference (B, R', C') tokens,
    video_keyframes (B, K n, C), n tokens of each of K stills, with their pixel frames keyframes (B, K) int32, and with
    config.stored_masks video_mask (B, T), audio_mask (B, A), above 0.5 for what is given. "empty" is the same text
    of the empty caption, without the axis B. shares: the modes, of which every sample draws one.
    """

    networks: Networks
    config: DiTStageConfig
    shares: tuple[WeightedMode, ...]
    sizes: ClipSizes
    seed: int

    def __call__(self, params: Any, frozen: Any, batch: Batch, step: Array) -> tuple[Array, Metrics]:
        """Mean over samples of the video loss plus the audio loss, () float32, and metrics."""
        parts = {**frozen["params"], **params}
        contexts = self._contexts(parts, self._drop_captions(batch, frozen["empty"], step))
        video, audio, choice = self._streams(batch, step)
        outputs = self.networks["transformer"].apply(
            self._variables(parts, step, batch["video"].shape[0]),
            None if video is None else self.process.entering(self._video_stream(video, frozen["tables"])),
            None if audio is None else self.process.entering(_stream(audio, frozen["tables"], "audio")),
            *(Context(tokens) for tokens in contexts),
            keep=self._keep(video, audio),
        )
        losses: dict[str, Array] = {}
        learning: dict[str, Array] = {}  # (B,) bool: the samples with something to learn
        for name, output, noisy in zip(("video", "audio"), outputs, (video, audio), strict=True):
            if noisy is None or noisy.targets is None or noisy.loss_mask is None:
                continue
            mask = noisy.loss_mask if name == "video" else noisy.loss_mask & batch["has_audio"][:, None]
            losses[name] = self._loss(output[:, : mask.shape[1]], noisy, mask)
            learning[name] = jnp.any(mask, axis=1)
        total = sum(losses.values(), jnp.zeros(batch["video"].shape[:1], jnp.float32))  # (B,)
        metrics = _metrics(losses, learning, total, _reported_sigma(video, audio))
        if choice is not None:
            metrics |= {f"loss_{s.name}": _mean(total, choice == i) for i, s in enumerate(self.shares)}
        return jnp.mean(total), metrics

    @property
    def process(self) -> Process:
        """The family that the transformer is trained with."""
        return find_process(self.networks.release.process)

    def _loss(self, output: Array, noisy: NoisyStream, mask: Array) -> Array:
        """Loss (B,) of the network's output (B, T, C) where mask (B, T) is True, weighed by the noise level."""
        targets = noisy.targets
        assert targets is not None
        answer = self.process.answer(noisy.latent[:, : targets.shape[1]], targets, noisy.sigma)
        loss = masked_loss(output, answer, mask)
        return loss * self.process.min_snr_weight(noisy.sigma) if self.config.weighting == "min_snr" else loss

    def _variables(self, parts: Any, step: Array, size: int) -> dict[str, Any]:
        """The transformer's variables: parameters, and adapters where they are trained. size: of the batch."""
        variables, lora = {"params": parts["transformer"]}, self.config.lora
        if lora is not None:
            variables["lora"] = scaled(parts[LORA], lora.scale)
        if lora is not None and lora.dropout:
            keys = sample_keys(self.seed, "train.lora_dropout", step, size)
            variables["lora"] = with_dropout(variables["lora"], lora.dropout, keys)
        return variables

    def _streams(self, batch: Batch, step: Array) -> tuple[NoisyStream | None, NoisyStream | None, Array | None]:
        """Both noised streams, None for one that no mode has, and with several modes the choice (B,) of each sample."""
        size = batch["video"].shape[0]
        draws = {m: self._draws(m, batch[m], step) for m in ("video", "audio")}
        masks = {m: self._masks(m, batch, step) for m in ("video", "audio")}
        streams = [self._noise(share.mode, batch, draws, masks) for share in self.shares]
        if len(streams) == 1:
            return streams[0][0], streams[0][1], None
        choice = choose(sample_keys(self.seed, "train.mode", step, size), [share.weight for share in self.shares])
        video, audio = (mix(of_mode, choice) for of_mode in zip(*streams, strict=True))
        return video, audio, choice

    def _draws(self, name: str, x0: Array, step: Array) -> Draws:
        streams = (share.mode.stream(name) for share in self.shares)
        conditions = max((len(s.conditions) for s in streams if s is not None), default=0)
        return draw(sample_keys(self.seed, f"train.{name}", step, x0.shape[0]), conditions, *x0.shape[1:])

    def _masks(self, name: str, batch: Batch, step: Array) -> dict[str, Array]:
        """Masks (B, T) for inpainting by their name: stored ones, or boxes drawn here."""
        folders = mask_folders(self.config, name)
        if not folders:
            return {}
        keys = sample_keys(self.seed, f"train.{name}_mask", step, batch[name].shape[0])
        mask = batch[f"{name}_mask"] if self.config.stored_masks else draw_masks(keys, self.sizes.grids[name])
        return dict.fromkeys(folders, mask)

    def _noise(self, mode: Mode, batch: Batch, draws: Any, masks: Any) -> list[NoisyStream | None]:
        """Video and audio as one mode wants them."""
        streams: list[NoisyStream | None] = []
        for name in ("video", "audio"):
            own, before = mode.stream(name), streams[0] if streams else None
            if own is None:
                streams.append(None)
                continue
            options = {"sigmas": self.config.sigmas, "scale": self.sizes.cell, "masks": masks[name]}
            options |= {"reference": batch.get(f"{name}_reference")}
            if own.keyframes is not None:
                first = self.sizes.video_tokens + self.sizes.reference_tokens
                options["keyframes"] = KeyFrames(batch["video_keyframes"], batch["keyframes"], first)
            options |= {"sigma": before.sigma if mode.shared_sigma and before is not None else self._level(draws[name])}
            streams.append(noise_stream(own, batch[name], draws[name], self.sizes.grids[name], **options))
        return streams

    def _level(self, draws: Draws) -> Array | None:
        """Noise levels (B,) as the process draws them; None where they are those of flow matching."""
        levels = self.process.levels
        return None if levels is None else levels.draw(draws.normal, draws.uniform)

    def _keep(self, video: NoisyStream | None, audio: NoisyStream | None) -> Array | None:
        """The transformer's `keep`: streams of samples whose mode has only one of them do not see each other."""
        if all(share.mode.video is not None and share.mode.audio is not None for share in self.shares):
            return None
        if video is None or audio is None or video.present is None or audio.present is None:
            return None
        both = (video.present & audio.present).astype(jnp.float32)  # (B,)
        rows = jnp.stack([jnp.ones_like(both), jnp.ones_like(both), both, both])  # (4, B)
        layers = self.networks.release.transformer.num_layers
        return jnp.broadcast_to(rows[:, None], (4, layers, both.shape[0]))

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
        return self.networks.apply(parts, "connectors", *features, method="connect")

    def _video_stream(self, noisy: NoisyStream, tables: dict[str, Rotary]) -> Stream:
        """The video stream, padded at its tail so that the mesh's context axis divides it."""
        batch, tokens, _ = noisy.latent.shape
        stream = _stream(noisy, tables, "video")
        if self.config.mark_keyframes:
            first = np.zeros(tokens, bool)
            first[: self.sizes.video_tokens] = select_frames(self.sizes.grid, 0, 1)
            stream = stream.replace(keyframes=jnp.asarray(np.broadcast_to(first, (batch, tokens))))
        return stream.padded(self.sizes.padded)


def _stream(noisy: NoisyStream, tables: dict[str, Rotary], name: str) -> Stream:
    return Stream(
        latent=noisy.latent,
        sigma=noisy.sigma,
        levels=noisy.levels,
        level_index=noisy.level_index,
        rotary=_rows(tables[name], noisy.place),
        cross_rotary=_rows(tables.get(f"{name}_cross"), noisy.place),
        length=noisy.length,
    )


def _rows(rotary: Rotary | None, place: Array | None) -> Any:
    """The tables with the rows of tokens at `place` (B, T) among their positions; None: one after the other."""
    if rotary is None or place is None:
        return rotary
    return rotary.replace(index=jnp.take(rotary.index[0], place, axis=0))


def _reported_sigma(video: NoisyStream | None, audio: NoisyStream | None) -> Array:
    """Noise level (B,) that losses are reported by: the video's where a sample has video, else the audio's (2.4)."""
    if video is None or audio is None or video.present is None:
        stream = video or audio
        assert stream is not None
        return stream.sigma
    return jnp.where(video.present, video.sigma, audio.sigma)


def _mean(x: Array, mask: Array) -> Array:
    """Mean of x (B,) where mask is True; NaN, which the loop leaves out, where nothing is."""
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.sum(mask)


def _metrics(losses: dict[str, Array], learning: dict[str, Array], total: Array, sigma: Array) -> Metrics:
    """Means per modality over the samples that learn it, and by noise level; NaN where there is no sample."""
    metrics = {f"loss_{name}": _mean(loss, learning[name]) for name, loss in losses.items()}
    means, counts = sigma_buckets(sigma, total)
    means = jnp.where(counts > 0, means, jnp.nan)
    return metrics | {name.removeprefix("train/"): means[i] for i, name in enumerate(bucket_names())}


def make_dit_objective(
    release: Release, config: DiTStageConfig, shape: VideoShape, mesh: Mesh, seed: int
) -> DiTObjective:
    """The objective for clips of one shape."""
    release = config.released(release)
    networks = make_networks(release, dtype=jnp.dtype(config.dtype))
    networks = networks.replaced(transformer=networks["transformer"].clone(remat=config.remat))
    sizes = clip_sizes(release, config, shape, mesh.shape["context"])
    fit = lambda mode: fit_mode(mode, sizes.grids, sizes.cell, config.temporal_boundary, config.spatial_region)
    shares = tuple(dataclasses.replace(share, mode=fit(share.mode)) for share in config.mixture())
    return DiTObjective(networks, config, shares, sizes, seed)


def trainable_parts(config: DiTStageConfig) -> tuple[str, ...]:
    """Names of the parts that the stage trains."""
    if config.lora is not None:
        return (LORA,)
    return DIT_PARTS if config.train_text else DIT_PARTS[:1]


def frozen_parts(config: DiTStageConfig) -> tuple[str, ...]:
    """Names of the parts that the stage's step reads and does not train."""
    frozen = ("transformer",) if config.lora is not None else ()
    return frozen if config.train_text else (*frozen, "connectors")


def abstract_trainable(networks: Networks, config: DiTStageConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes and logical axes of the trainable parameters, by part. A mesh must be set."""
    if config.lora is None:
        return abstract_parts(networks, trainable_parts(config))
    shapes, axes = abstract_parts(networks, ("transformer",))
    pair = abstract_lora(config.lora, networks.release.transformer, shapes["transformer"], axes["transformer"])
    return {LORA: pair[0]}, {LORA: pair[1]}


def make_dit_program(release: Release, config: DiTStageConfig, shape: VideoShape, mesh: Mesh, seed: int = 0) -> Program:
    """The transformer's training step for clips of one shape; abstract, so also for devices that are not there.

    Frozen parameters are kept in the compute type.
    """
    objective = make_dit_objective(release, config, shape, mesh, seed)
    with jax.set_mesh(mesh):
        shapes, axes = abstract_trainable(objective.networks, config)
        fixed, fixed_axes = abstract_parts(objective.networks, frozen_parts(config))
    dtype = jnp.dtype(config.dtype)
    fixed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), fixed)
    batch, empty = abstract_batch(release, objective.sizes, config)
    frozen = {
        "params": with_shardings(fixed, param_shardings(fixed_axes, fixed, mesh)),
        "tables": replicated_like(dit_tables(release, objective.sizes, config, shape.fps), mesh),
        "empty": replicated_like(empty, mesh),
    }
    return make_train_program(objective, config, shapes, axes, frozen, batch_like(batch, mesh), mesh)
