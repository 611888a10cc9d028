"""The transformer's stage on encoded clips, whatever their sizes: one state, and one program for every bucket."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ltx_jax.bundle import LazyParts, initial_parts
from ltx_jax.checkpoints.lora import merge_lora
from ltx_jax.data.buckets import Bucket
from ltx_jax.data.encoded.mixture import BucketBatches, Mixture
from ltx_jax.data.encoded.prepared import FeatureBatch, Item, place_text, stack_clips
from ltx_jax.data.preparation.encode import configuration_number, latents_number
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.errors import require
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.names.dit import dit_names
from ltx_jax.parallel.multihost import batch_share
from ltx_jax.parallel.program import Program, place
from ltx_jax.releases import Release
from ltx_jax.training.config import DiTStageConfig
from ltx_jax.training.dit.clips import tokenizer_number
from ltx_jax.training.dit.inputs import dit_tables
from ltx_jax.training.dit.objective import (
    DiTObjective,
    abstract_trainable,
    frozen_parts,
    make_dit_objective,
    make_dit_program,
    trainable_parts,
)
from ltx_jax.training.loop import Stage
from ltx_jax.training.lora import PART as LORA
from ltx_jax.training.lora import adapted_layers, initial_lora, loaded_lora
from ltx_jax.training.record import base_record
from ltx_jax.training.setting import Params, Setting, make_initializer


def dit_stage(setting: Setting, clips: Mixture, start: Params | None, decoders: Params | None) -> Stage:
    """The stage `dit` on `clips`; the text encoder is not needed unless it is trained.

    start: parameters of DIT_PARTS to begin with and to keep frozen, or None for random ones. decoders: the
    autoencoders' parameters, for previews, where there are some. Raises UserError for clips of another model, and
    where a frozen part is missing.
    """
    config, release, mesh, seed = setting.config.dit, setting.release, setting.mesh, setting.config.seed
    check_start(config, start)
    check_model(clips, release, decoders)

    # --- shapes and step: a program for every size of clip, of one state --------------------------------------------
    objectives = {b: make_dit_objective(release, config, shape_of(b), mesh, seed) for b in clips.buckets}
    programs = {b: make_dit_program(release, config, shape_of(b), mesh, seed) for b in clips.buckets}
    for bucket, program in programs.items():
        check_item(clips, bucket, program, config)
    first = clips.buckets[0]

    # --- what does not learn: frozen parts and the empty caption, once; rotary tables, by size -----------------------
    fixed = {part: start[part] for part in frozen_parts(config)} if start is not None else {}
    shared = {"params": fixed, "empty": empty_text(clips, config, release, setting.tokenizer)}
    wanted = programs[first].arguments["frozen"]
    shared = place(shared, {name: wanted[name] for name in shared})
    tables = {b: dit_tables(release, objectives[b].sizes, config, b.fps) for b in clips.buckets}
    frozen = {
        b: shared | {"tables": place(tables[b], programs[b].arguments["frozen"]["tables"])} for b in clips.buckets
    }

    # --- data -------------------------------------------------------------------------------------------------------
    collate = CaptionBatch(setting.tokenizer) if config.train_text else FeatureBatch(release.text_length)
    share, shares = batch_share(mesh, config.batch_size)
    make_batches = functools.partial(
        BucketBatches, clips, setting.data.seed, config.batch_size, collate, workers=setting.data.workers,
        process_index=share, process_count=shares,
    )  # fmt: skip
    words = {"tokenizer": tokenizer_number(setting.tokenizer)} if config.train_text else {}
    return Stage(
        name="dit", config=config, program=programs[first], frozen=frozen[first],
        buckets={b.name: (programs[b], frozen[b]) for b in clips.buckets}, batches=make_batches,
        initialize=make_initializer(
            setting, programs[first], "dit", *first_values(setting, objectives[first], start)
        ),
        identity=setting.identity("dit") | words | base_record(fixed), preview=preview(setting, start, decoders),
    )  # fmt: skip


def shape_of(bucket: Bucket) -> VideoShape:
    """The clips of a bucket in pixels."""
    return VideoShape(bucket.frames, bucket.height, bucket.width, bucket.fps)


# --- parameters -----------------------------------------------------------------------------------------------------


def first_values(
    setting: Setting, objective: DiTObjective, start: Params | None
) -> tuple[Callable[[], Params], Params | None, Any]:
    """What makes the trainable parameters at random, those to start from instead, if any, and their logical axes."""
    release, config, seed = setting.release, setting.config.dit, setting.config.seed
    with jax.set_mesh(setting.mesh):
        shapes, axes = abstract_trainable(objective.networks, config)
    if config.lora is None:
        return (lambda: initial_parts(objective.networks, trainable_parts(config), seed)), start, axes
    load = functools.partial(loaded_lora, config.lora, release.transformer, shapes[LORA], seed)
    given = LazyParts({LORA: load}) if config.lora.init else None  # a run that goes on needs the file no more
    layers = adapted_layers(config.lora, release.transformer)
    return (lambda: {LORA: initial_lora(shapes[LORA], seed, layers)}), given, axes


def preview(setting: Setting, start: Params | None, decoders: Params | None) -> Callable | None:
    """The callback that shows the model so far: trained weights, frozen ones, and adapters merged in."""
    sample, config = setting.sample, setting.config.dit
    if sample is None or decoders is None:
        return None

    def show(state: Any, step: int, folder: Path) -> None:
        parts = {**decoders, **(start or {}), **jax.device_get(state.weights)}
        if config.lora is not None:
            names, lora = dit_names(setting.release.transformer), parts.pop(LORA)
            parts["transformer"] = merge_lora(parts["transformer"], lora, names, config.lora.scale)
        sample(parts, step, folder)

    return show


# --- text -----------------------------------------------------------------------------------------------------------


def empty_text(clips: Mixture, config: DiTStageConfig, release: Release, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The empty caption, as token ids or as features. Raises UserError where captions shall be dropped without it."""
    if config.train_text:
        require(tokenizer is not None and clips.captions, "These clips come without captions: set train_text=False.")
        assert tokenizer is not None
        ids, mask = tokenizer([""])
        return {"text_ids": ids[0], "text_mask": mask[0]}
    stored = clips.empty()
    if stored is not None:
        return place_text(stored, release.text_length)
    require(
        config.caption_dropout == 0,
        "These clips come without the features of the empty caption: set training.dit.caption_dropout=0.",
    )
    length, connectors = release.text_length, release.connectors
    features = {"video_features": connectors.video.width, "audio_features": connectors.audio.width}
    nothing = {name: np.zeros((length, width), np.float32) for name, width in features.items()}
    return nothing | {"text_mask": np.zeros((length,), np.int32)}


@dataclasses.dataclass(frozen=True)
class CaptionBatch:
    """Collates clips with their captions as token ids."""

    tokenizer: Tokenizer | None

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        """Stacked arrays, and text_ids and text_mask (B, S) int32."""
        assert self.tokenizer is not None
        ids, mask = self.tokenizer([item["caption"] for item in items])
        return stack_clips(items) | {"text_ids": ids, "text_mask": mask}


# --- checks ---------------------------------------------------------------------------------------------------------


def check_start(config: DiTStageConfig, start: Any) -> None:
    """Raise UserError when a part stays frozen and there is nothing to take it from."""
    what = "A LoRA adapts a trained model" if config.lora else "Frozen text needs a trained text encoder"
    require(config.train_text or start is not None, f"{what}: name a model or an earlier run with --init_from.")


def check_model(clips: Mixture, release: Release, encoders: Params | None) -> None:
    """Raise UserError when the clips were encoded by another model."""
    if clips.model is None:
        return
    same = clips.model["configuration"] == configuration_number(release)
    if same and encoders is not None:
        same = clips.model["latents"] == latents_number(encoders)
    require(same, "The clips were prepared by another model than the one to train: prepare them with --checkpoint.")


def check_item(clips: Mixture, bucket: Bucket, program: Program, config: DiTStageConfig) -> None:
    """Raise UserError when a bucket's clips do not have what the model gives to their shape."""
    item, wanted = clips.item_at(0, bucket, 0), program.arguments["batch"]
    for name in ("video", "audio"):
        shape = wanted[name].shape[1:]
        require(
            item[name].shape == shape,
            f"The clips of {bucket.name} have {name} of {len(item[name])} tokens of "
            f"{item[name].shape[1]} numbers where the model has {shape[0]} of {shape[1]}: they are of another model.",
        )
    require(
        config.train_text or "video_features" in item,
        f"The clips of {bucket.name} come without features of their captions: set training.dit.train_text=True, or "
        "prepare them with ltx_jax.tools.prepare.",
    )
