"""A training, read from top to bottom: the stages in order, finished ones skipped, each ending in weights.

Below the workdir every stage has a folder: checkpoints, metrics, samples, and, once it is done, `weights` (of the
moving average where there is one) and `finished.json`. Beside them lie `run.json` (what ran, with what), `config.json`,
the encoded `clips`, and in the end the `model` in the official layout, or `lora.safetensors`.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import ml_dtypes
from jax.sharding import Mesh

from ltx_jax.bundle import Bundle
from ltx_jax.checkpoints.lora import save_lora, targeted
from ltx_jax.checkpoints.orbax import save_weights
from ltx_jax.checkpoints.save import save_bundle
from ltx_jax.data.config import DataConfig
from ltx_jax.data.encoded.datasets import open_clips
from ltx_jax.data.encoded.mixture import Mixture
from ltx_jax.data.raw.item import Source
from ltx_jax.data.raw.source import open_source
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.errors import UserError, require
from ltx_jax.files import write_json, write_text
from ltx_jax.lock import working_in
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.models.video_vae.encoder import check_video_shape
from ltx_jax.names.dit import dit_names
from ltx_jax.parallel.multihost import barrier, first_decides, is_first, local_mesh, say
from ltx_jax.parallel.program import place, replicated_like
from ltx_jax.parts import OPTIONAL, parts_of
from ltx_jax.releases import Release
from ltx_jax.training.autoencoders.adversarial import DISCRIMINATORS
from ltx_jax.training.autoencoders.objectives import check_audio_stage, check_video_stage
from ltx_jax.training.autoencoders.stage import STATISTICS, statistics, vae_stage
from ltx_jax.training.config import STAGES, StageConfig, StageName, TrainingConfig
from ltx_jax.training.dit.clips import prepared_source, shrunk
from ltx_jax.training.dit.objective import make_dit_objective
from ltx_jax.training.dit.stage import check_start, dit_stage, shape_of
from ltx_jax.training.loop import Stage, run_stage
from ltx_jax.training.record import RunRecord, record_run
from ltx_jax.training.setting import Params, SampleCallback, Setting
from ltx_jax.training.upsampler import check_upsampler_stage, upsampler_stage
from ltx_jax.training.weights import AUTOENCODERS, FINISHED, TOKENIZER, WEIGHTS, Weights, joined

# Makes what shows the transformer's work: of release, tokenizer, devices, prompts.
MakePreviews = Callable[[Release, Tokenizer | None, Mesh, Sequence[str]], SampleCallback]


def train(
    release: Release, config: TrainingConfig, data: DataConfig, mesh: Mesh, workdir: Path,
    stages: Sequence[StageName] = STAGES, *, init_from: Path | None = None, text_encoder: Path | None = None,
    previews: MakePreviews | None = None, record: RunRecord = RunRecord(),
) -> None:  # fmt: skip
    """Run `stages` in order; running again goes on from the last checkpoint, bit for bit.

    With training.dit.lora only adapters are trained. init_from: the workdir of another run, or a model, whose weights
    the stages start from, and whose autoencoders and tokenizer are used where this run has none; text_encoder: the
    folder of that model's, where it does not lie beside it. Raises UserError for what the user can mend, before
    anything is computed, and where another run works in the workdir.
    """
    release = config.dit.released(release)
    stages = _possible(stages, release, config)
    _check_sizes(release, data)
    with _alone_in(workdir):
        # --- weights and tokenizer: what is given, and what this run has trained before -----------------------------
        setting = Setting(release, config, data, mesh, workdir)
        found = Weights(setting, init_from, text_encoder)
        setting = dataclasses.replace(setting, tokenizer=found.tokenizer())
        if previews is not None:
            show = previews(release, setting.tokenizer, local_mesh(mesh), config.preview.prompts)
            setting = dataclasses.replace(setting, sample=show)

        # --- data: clips that are encoded, or raw ones --------------------------------------------------------------
        clips = open_clips(data, release.video_vae.scale_factors, release.audio_vae.token_width)
        source = open_source(data, workdir) if clips is None else None
        _check(setting, stages, found, clips)

        # --- record: what runs here, with what ----------------------------------------------------------------------
        say(json.dumps(record.config, indent=2))
        if is_first():
            write_text(workdir / "config.json", json.dumps(record.config, indent=2))
        record_run(workdir, mesh, config.seed, record)

        # --- stages -------------------------------------------------------------------------------------------------
        for name in [name for name in STAGES if name in stages]:
            if found.finished(name):
                say(f"{name}: finished before, skipped")
            else:
                _train_stage(setting, name, found, clips, source)
        _write_model(setting, found)


def _possible(stages: Sequence[StageName], release: Release, config: TrainingConfig) -> Sequence[StageName]:
    """What of `stages` there is to train: adapters alone, and an upsampler only where the model has one."""
    if config.dit.lora is not None:
        return ("dit",)
    if release.spatial_upsampler is not None or len(stages) == 1:
        return stages
    return [name for name in stages if name != "upsampler"]


def _train_stage(
    setting: Setting, name: StageName, found: Weights, clips: Mixture | None, source: Source | None
) -> None:
    """One stage from its networks to the weights and the marker that it leaves behind."""
    folder, start = setting.workdir / name, found.start(name)

    # --- step, data and first state ---------------------------------------------------------------------------------
    if name == "dit":
        _keep_tokenizer(setting.tokenizer, folder)
        stage = _dit_stage(setting, found, clips, source, start)
    elif name == "upsampler":
        assert source is not None
        stage = upsampler_stage(setting, source, found.encoders(("video_vae",)), start)
    else:
        assert source is not None
        stage = vae_stage(setting, name, source, start)

    # --- loop -------------------------------------------------------------------------------------------------------
    state = run_stage(stage, folder)

    # --- weights ----------------------------------------------------------------------------------------------------
    weights = {part: params for part, params in state.weights.items() if part not in DISCRIMINATORS}
    if name in STATISTICS:
        measured = statistics(setting, name, stage, weights)
        weights[STATISTICS[name]] = place(measured, replicated_like(measured, setting.mesh))
    save_weights(folder / WEIGHTS, weights)
    if is_first():
        write_json(folder / FINISHED, {"steps": stage.config.steps, "identity": stage.identity})
    barrier(f"{name} is finished")


def _dit_stage(
    setting: Setting, found: Weights, clips: Mixture | None, source: Source | None, start: Params | None
) -> Stage:
    """The transformer's stage; raw clips are encoded first, and only previews need the decoders."""
    if clips is not None:
        return dit_stage(setting, clips, start, found.decoders())
    assert source is not None
    check_start(setting.config.dit, start)
    clips = prepared_source(setting, source, joined(start, found.encoders()))
    if not setting.config.dit.train_text:
        found.forget("text")  # the captions are encoded
    return dit_stage(setting, clips, start, found.encoders())


def _keep_tokenizer(tokenizer: Tokenizer | None, folder: Path) -> None:
    """Write it beside the checkpoints that are made with it, for a run that goes on without --init_from."""
    if is_first() and tokenizer is not None and not list((folder / "checkpoints").glob("[0-9]*")):
        write_text(folder / TOKENIZER, tokenizer.to_json())


def _write_model(setting: Setting, found: Weights) -> None:
    """What comes of the run: adapters, or the model once every part of it is trained or given."""
    release, config, workdir = setting.release, setting.config.dit, setting.workdir
    params = found.all()
    missing = {part.name for part in parts_of(release)} - set(params)
    if missing <= set(OPTIONAL):
        release = dataclasses.replace(release, **dict.fromkeys(missing))
    if config.lora is not None:
        path, names = workdir / "lora.safetensors", dit_names(release.transformer)
        if is_first():
            save_lora(path, params["lora"], names, scale=config.lora.scale, metadata=config.reference_metadata())
        say(f"the LoRA is in {path}; try it with sample.py --lora={path}")
    elif missing <= set(OPTIONAL):
        if is_first():
            save_bundle(Bundle(release, params, setting.tokenizer), workdir / "model", ml_dtypes.bfloat16)
        say(f"the model is in {workdir / 'model'}")


# --- checks ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone_in(workdir: Path) -> Iterator[None]:
    """Within, no other run works in the folder, which is made; the first process holds it for all of this run."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The workdir '{workdir}' cannot be made ({error.strerror}); choose another.") from None
    with contextlib.ExitStack() as held:
        first_decides(lambda: held.enter_context(working_in(workdir)))
        yield


def _check_sizes(release: Release, data: DataConfig) -> None:
    check_video_shape(release.video_vae, data.frames, data.height, data.width)
    require(
        data.sample_rate == release.audio_vae.sampling_rate,
        f"data.sample_rate is {data.sample_rate}, but the audio VAE hears {release.audio_vae.sampling_rate} Hz.",
    )


def _check_raw(release: Release, data: DataConfig) -> None:
    """Raise UserError where there are no such raw clips."""
    _check_sizes(release, data)
    if data.path is None:
        open_source(data)  # the world has a smallest size


def _check(setting: Setting, stages: Sequence[StageName], found: Weights, clips: Mixture | None) -> None:
    """Raise UserError now for what would stop a stage later, when those before it are trained and clips encoded."""
    release, config, data = setting.release, setting.config, setting.data
    require(clips is None or set(stages) == {"dit"}, "Encoded clips can only train the transformer: add --stage=dit.")
    waiting: list[StageName] = [name for name in stages if not found.finished(name)]
    for name in waiting:
        _note_uneven_batch(name, config.stage(name), setting.mesh)
        found.start(name)
    if "video_vae" in waiting:
        check_video_stage(release, config.video_vae, data.frames)
    if "audio_vae" in waiting:
        check_audio_stage(release, config.audio_vae, data.audio_samples)
    if "upsampler" in waiting:
        check_upsampler_stage(release, data)
        _check_raw(release, shrunk(data, 2))
        if "video_vae" not in stages:
            found.check("video_vae")
    if "dit" in stages:  # a finished stage needs what stayed frozen for the model that is written
        check_start(config.dit, found.start("dit"))
    if "dit" not in waiting:
        return
    for name in AUTOENCODERS:
        found.start(name)
        if clips is None and name not in stages:
            found.check(name)
    raw = [shrunk(data, by) for by in config.dit.shrink]
    if clips is None:
        for size in raw:
            _check_raw(release, size)
    shapes = [VideoShape(size.frames, size.height, size.width, size.fps) for size in raw]
    for shape in shapes if clips is None else [shape_of(bucket) for bucket in clips.buckets]:
        make_dit_objective(release, config.dit, shape, setting.mesh, config.seed)
    if config.dit.lora is not None:
        targeted(dit_names(release.transformer), config.dit.lora.target_modules)


def _note_uneven_batch(name: StageName, config: StageConfig, mesh: Mesh) -> None:
    samples, shards = config.batch_size // config.accumulate, mesh.shape["data"] * mesh.shape["fsdp"]
    if samples % shards:
        say(
            f"note: {name} trains {samples} samples at a time, which its {shards} batch shards (data x fsdp) do not "
            "divide: devices repeat each other's work."
        )
