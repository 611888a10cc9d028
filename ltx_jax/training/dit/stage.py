"""The transformer's stage: encoded clips, their references and text features, frozen parts, adapters, previews."""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ltx_jax.bundle import LazyParts, initial_parts, networks_on, place_parts
from ltx_jax.checkpoints.lora import merge_lora
from ltx_jax.codec import (
    AUDIO_ENCODER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    audio_tokens,
    text_features,
    to_unit,
    video_tokens,
)
from ltx_jax.data.encoded.features import TextFeatures, WithFeatures, encode_captions, store_captions
from ltx_jax.data.encoded.latents import LatentStore, encode_clips
from ltx_jax.data.preparation.encode import filled
from ltx_jax.data.raw.item import Source
from ltx_jax.data.raw.references import ReferenceSource, WithReferences, reference_folder
from ltx_jax.errors import require
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.names.dit import dit_names
from ltx_jax.parallel.multihost import first_then_all, local_mesh
from ltx_jax.parallel.program import batch_like, place
from ltx_jax.training.build import Params, Setting, make_initializer
from ltx_jax.training.config import DiTStageConfig, ReferenceConfig
from ltx_jax.training.dit.inputs import abstract_batch, dit_tables
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


def dit_stage(setting: Setting, start: Params | None, encoders: Params) -> Stage:
    """The stage `dit`. encoders: the trained autoencoders' parameters; clips and captions are encoded here, once.

    start: parameters of DIT_PARTS to start from, or None for random ones. Raises UserError where a frozen part is
    missing.
    """
    release, config, mesh, seed = setting.release, setting.config.dit, setting.mesh, setting.config.seed
    require(setting.tokenizer is not None, "Training the transformer needs a tokenizer.")
    assert setting.tokenizer is not None
    check_start(config, start)
    objective = make_dit_objective(release, config, setting.shape, mesh, seed)
    program = make_dit_program(release, config, setting.shape, mesh, seed)
    rows, empty = clip_rows(setting, objective, encoders, start)
    fixed = {part: start[part] for part in frozen_parts(config)} if start is not None else {}
    frozen = {"params": fixed, "tables": dit_tables(release, objective.sizes, config, setting.data.fps), "empty": empty}
    wanted = abstract_batch(release, objective.sizes, config)[0]
    require(
        rows.item(0, 0)["video"].shape == wanted["video"].shape[1:],
        f"The encoded clips in '{setting.latents}' have another size than the config says; delete that folder.",
    )
    collator = TokenBatch(setting.tokenizer if config.train_text else None)
    return Stage(
        name="dit", config=config, program=program, frozen=place(frozen, program.arguments["frozen"]),
        initialize=make_initializer(setting, program, "dit", *first_values(setting, objective, start)),
        batches=lambda: setting.batches(rows, config.batch_size, collator),
        identity=setting.identity("dit") | base_record(fixed), preview=preview(setting, start, encoders),
    )  # fmt: skip


def check_start(config: DiTStageConfig, start: Any) -> None:
    """Raise UserError when a part stays frozen and there is nothing to take it from."""
    what = "A LoRA adapts a trained model" if config.lora else "Frozen text needs a trained text encoder"
    require(config.train_text or start is not None, f"{what}: name a model or an earlier run with --init_from.")


def first_values(
    setting: Setting, objective: DiTObjective, start: Params | None
) -> tuple[Callable[[], Params], Params | None, Any]:
    """What makes the trainable parameters at random, those to start from instead, if any, and their logical axes."""
    release, config, seed = setting.release, setting.config.dit, setting.config.seed
    parts = trainable_parts(config)
    with jax.set_mesh(setting.mesh):
        shapes, axes = abstract_trainable(objective.networks, config)
    if config.lora is None:
        given = None if start is None else {part: start[part] for part in parts}
        return (lambda: initial_parts(objective.networks, parts, seed)), given, axes
    load = functools.partial(loaded_lora, config.lora, release.transformer, shapes[LORA], seed)
    given = LazyParts({LORA: load}) if config.lora.init else None  # a run that goes on needs the file no more
    layers = adapted_layers(config.lora, release.transformer)
    return (lambda: {LORA: initial_lora(shapes[LORA], seed, layers)}), given, axes


def preview(setting: Setting, start: Params | None, encoders: Params) -> Callable | None:
    """The callback that shows the model so far: trained weights, frozen ones, and adapters merged in."""
    sample, config = setting.sample, setting.config.dit
    if sample is None:
        return None

    def show(state: Any, step: int, folder: Path) -> None:
        parts = {**encoders, **(start or {}), **jax.device_get(state.weights)}
        if config.lora is not None:
            names, lora = dit_names(setting.release.transformer), parts.pop(LORA)
            parts["transformer"] = merge_lora(parts["transformer"], lora, names, config.lora.scale)
        sample(parts, step, folder)

    return show


# --- data -----------------------------------------------------------------------------------------------------------


def clip_rows(
    setting: Setting, objective: DiTObjective, encoders: Params, start: Params | None
) -> tuple[Any, dict[str, np.ndarray]]:
    """The encoded clips to train on, with what the modes and the text need beside them, and the empty caption."""
    config, sizes, tokenizer = setting.config.dit, objective.sizes, setting.tokenizer
    assert tokenizer is not None
    store = encode(setting, setting.source, encoders, sizes.audio_tokens, setting.latents)
    rows: Any = store
    if sizes.reference is not None or sizes.reference_audio:
        small = config.reference or ReferenceConfig()
        source = ReferenceSource(setting.source, small.downscale, small.temporal)
        rows = WithReferences(
            rows, encode(setting, source, encoders, sizes.audio_tokens, reference_folder(setting.latents))
        )
    if config.train_text:
        ids, mask = tokenizer([""])
        return rows, {"text_ids": ids[0], "text_mask": mask[0]}
    assert start is not None
    features = caption_features(setting, store, {part: start[part] for part in TEXT_ENCODER})
    return WithFeatures(rows, features), features[""]


def caption_features(setting: Setting, store: LatentStore, params: Params) -> TextFeatures:
    """The features of all captions of the store, made by the frozen text encoder and kept beside the clips."""
    mesh, tokenizer = local_mesh(setting.mesh, spread=True), setting.tokenizer
    nets = networks_on(mesh, setting.release)
    run = jax.jit(functools.partial(text_features, nets))
    placed_params = functools.cache(lambda: place_parts(nets, params, tuple(params), mesh))

    def encode_text(captions: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert tokenizer is not None
        ids, mask = tokenizer(captions)
        with jax.set_mesh(mesh):
            batch = {"ids": ids, "mask": mask}
            placed = place(batch, batch_like(batch, mesh))
            video, audio = run(placed_params(), placed["ids"], placed["mask"])
        return np.asarray(video), np.asarray(audio), mask

    captions = store_captions(store)
    texts = zlib.crc32("\n".join(captions).encode())
    folder = setting.latents.with_name(f"{setting.latents.name}_text")
    fingerprint = f"{texts:08x} {checksum(params)}"
    rows = filled(32, mesh)
    return first_then_all("captions", lambda: encode_captions(captions, encode_text, folder, fingerprint, batch=rows))


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """Collates encoded clips: stacked arrays, and their captions as token ids where a tokenizer is given."""

    tokenizer: Tokenizer | None

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        batch = {name: np.stack([item[name] for item in items]) for name in items[0] if name != "caption"}
        if self.tokenizer is None:
            return batch
        ids, mask = self.tokenizer([item["caption"] for item in items])
        return batch | {"text_ids": ids, "text_mask": mask}


def encode(
    setting: Setting, source: Source, encoders: Params, length: int, folder: Path, batch: int = 16
) -> LatentStore:
    """Clips as normalised tokens on disk, encoded with the trained autoencoders; `length` audio tokens each.

    Of several processes the first one encodes, into a folder that all see.
    """
    mesh = local_mesh(setting.mesh, spread=True)
    nets = networks_on(mesh, setting.release)
    pixels = lambda params, video: video_tokens(nets, params, to_unit(video))
    sound = lambda params, waveform: audio_tokens(nets, params, waveform, length)
    encode_video, encode_audio = jax.jit(pixels), jax.jit(sound)

    def both(video: np.ndarray, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        abstract = batch_like({"video": video, "audio": audio}, mesh)
        with jax.set_mesh(mesh):
            placed = place({"video": video, "audio": audio}, abstract)
            tokens = encode_video(encoders, placed["video"]), encode_audio(encoders, placed["audio"])
        return np.asarray(tokens[0]), np.asarray(tokens[1])

    encoders = {name: encoders[name] for name in (*VIDEO_ENCODER, *AUDIO_ENCODER)}
    clips = setting.config.dit.clips
    fingerprint = f"{source.fingerprint} {checksum(encoders)} {clips}"
    rows = filled(batch, mesh)
    return first_then_all("clips", lambda: encode_clips(source, both, clips, folder, fingerprint, batch=rows))


def checksum(tree: Any) -> str:
    """A number for the bits of all arrays of `tree`."""
    value = 0
    for leaf in jax.tree.leaves(tree):
        value = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), value)
    return f"{value:08x}"
