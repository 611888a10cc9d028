"""The transformer's stage on clips that were encoded beforehand: one state, one program for every bucket."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ltx_jax.data.buckets import Bucket
from ltx_jax.data.encoded.mixture import BucketBatches, Mixture
from ltx_jax.data.encoded.prepared import FeatureBatch, Item, place_text, stack_clips
from ltx_jax.data.preparation.encode import configuration_number, latents_number
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.errors import UserError, require
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.parallel.multihost import batch_share
from ltx_jax.parallel.program import Program, place
from ltx_jax.releases import Release
from ltx_jax.training.build import Params, Setting, make_initializer
from ltx_jax.training.config import DiTStageConfig
from ltx_jax.training.dit.inputs import dit_tables
from ltx_jax.training.dit.objective import frozen_parts, make_dit_objective, make_dit_program
from ltx_jax.training.dit.stage import check_start, first_values, preview
from ltx_jax.training.loop import Stage
from ltx_jax.training.record import base_record


def prepared_stage(
    setting: Setting, clips: Mixture, start: Params | None, encoders: Callable[[], Params]
) -> Stage:  # fmt: skip
    """The stage `dit` on `clips`, whatever their sizes; the text encoder is not needed unless it is trained.

    start: see `build_dit.dit_stage`. encoders: the autoencoders' parameters, for previews; may raise UserError where
    there are none. Raises UserError for clips of another model, and where a frozen part is missing.
    """
    config, release = setting.config.dit, setting.release
    check_start(config, start)
    decoders = _optional(encoders)
    _check_model(clips, release, decoders)
    empty = empty_text(clips, config, release, setting.tokenizer)
    made = {bucket: _program(setting, bucket) for bucket in clips.buckets}
    for bucket, (program, _) in made.items():
        _check_item(clips, bucket, program)
    fixed = {part: start[part] for part in frozen_parts(config)} if start is not None else {}
    first, _ = made[clips.buckets[0]]
    shared = place({"params": fixed, "empty": empty}, _without_tables(first))
    programs = {
        bucket.name: (program, shared | {"tables": place(tables, program.arguments["frozen"]["tables"])})
        for bucket, (program, tables) in made.items()
    }
    objective = make_dit_objective(release, config, shape_of(clips.buckets[0]), setting.mesh, setting.config.seed)
    collate = CaptionBatch(setting.tokenizer) if config.train_text else FeatureBatch(release.text_length)
    share, shares = batch_share(setting.mesh, config.batch_size)
    return Stage(
        name="dit", config=config, program=first, frozen=programs[clips.buckets[0].name][1], buckets=programs,
        initialize=make_initializer(setting, first, "dit", *first_values(setting, objective, start)),
        batches=lambda: BucketBatches(
            clips, setting.data.seed, config.batch_size, collate, workers=setting.data.workers,  # type: ignore[arg-type]
            process_index=share, process_count=shares,
        ),
        identity=setting.identity("dit") | base_record(fixed),
        preview=None if decoders is None else preview(setting, start, decoders),
    )  # fmt: skip


def shape_of(bucket: Bucket) -> VideoShape:
    """The clips of a bucket in pixels."""
    return VideoShape(bucket.frames, bucket.height, bucket.width, bucket.fps)


def _program(setting: Setting, bucket: Bucket) -> tuple[Program, Any]:
    """The training step for a bucket's clips, and its rotary tables."""
    release, config, shape = setting.release, setting.config.dit, shape_of(bucket)
    program = make_dit_program(release, config, shape, setting.mesh, setting.config.seed)
    sizes = make_dit_objective(release, config, shape, setting.mesh, setting.config.seed).sizes
    return program, dit_tables(release, sizes, config, shape.fps)


def _without_tables(program: Program) -> dict[str, Any]:
    return {name: tree for name, tree in program.arguments["frozen"].items() if name != "tables"}


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
    sizes = make_empty_shapes(release)
    return {name: np.zeros(shape, np.float32) for name, shape in sizes.items()}


def make_empty_shapes(release: Release) -> dict[str, tuple[int, ...]]:
    """Shapes of one caption's features and mask."""
    length, connectors = release.text_length, release.connectors
    return {
        "video_features": (length, connectors.video.width), "audio_features": (length, connectors.audio.width),
        "text_mask": (length,),
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CaptionBatch:
    """Collates clips with their captions as token ids."""

    tokenizer: Tokenizer | None

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        """Stacked arrays, and text_ids and text_mask (B, S) int32."""
        assert self.tokenizer is not None
        ids, mask = self.tokenizer([item["caption"] for item in items])
        return stack_clips(items) | {"text_ids": ids, "text_mask": mask}


def _optional(encoders: Callable[[], Params]) -> Params | None:
    try:
        return encoders()
    except UserError:  # training does without; only previews need them
        return None


def _check_model(clips: Mixture, release: Release, encoders: Params | None) -> None:
    """Raise UserError when the clips were encoded by another model."""
    if clips.model is None:
        return
    same = clips.model["configuration"] == configuration_number(release)
    if same and encoders is not None:
        same = clips.model["latents"] == latents_number(encoders)
    require(same, "The clips were prepared by another model than the one to train: prepare them with --checkpoint.")


def _check_item(clips: Mixture, bucket: Bucket, program: Program) -> None:
    """Raise UserError when a bucket's clips do not have the sizes that the model gives to their shape."""
    item, wanted = clips.item_at(0, bucket, 0), program.arguments["batch"]
    for name in ("video", "audio"):
        shape = wanted[name].shape[1:]
        require(
            item[name].shape == shape,
            f"The clips of {bucket.name} have {name} of {len(item[name])} tokens of "
            f"{item[name].shape[1]} numbers where the model has {shape[0]} of {shape[1]}: they are of another model.",
        )
