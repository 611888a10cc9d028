"""A whole training run: the stages in order, finished ones skipped, each ending in weights that the next one uses.

Below the workdir every stage has a folder: checkpoints, metrics, samples, and, once it is done, `weights` (of the
moving average where there is one) and `finished.json`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from ltx_jax.checkpoints.lora import targeted
from ltx_jax.checkpoints.orbax import save_weights
from ltx_jax.data.config import DataConfig
from ltx_jax.data.encoded.datasets import open_clips
from ltx_jax.data.encoded.mixture import Mixture
from ltx_jax.data.raw.source import open_source
from ltx_jax.errors import UserError, require
from ltx_jax.files import write_json
from ltx_jax.lock import working_in
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.names.dit import dit_names
from ltx_jax.parallel.multihost import barrier, first_decides, is_first, say
from ltx_jax.parallel.program import place, replicated_like
from ltx_jax.releases import Release
from ltx_jax.training.autoencoders.objectives import check_audio_stage, check_video_stage
from ltx_jax.training.build import SampleCallback, Setting, statistics, vae_stage
from ltx_jax.training.config import STAGES, StageConfig, StageName, TrainingConfig
from ltx_jax.training.dit.objective import make_dit_objective
from ltx_jax.training.dit.prepared import prepared_stage, shape_of
from ltx_jax.training.dit.stage import check_start, dit_stage
from ltx_jax.training.loop import run_stage
from ltx_jax.training.weights import AUTOENCODERS, FINISHED, STATISTICS, WEIGHTS, Weights


def train(
    release: Release,
    config: TrainingConfig,
    data: DataConfig,
    mesh: Mesh,
    workdir: Path,
    stages: Sequence[StageName] = STAGES,
    *,
    tokenizer: Tokenizer | None = None,
    init_from: Path | None = None,
    sample_callback: SampleCallback | None = None,
    announce: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Run `stages` in order and return the parameters of all parts that exist then, host arrays by part.

    Of adapters (training.dit.lora) the part "lora" alone is returned.

    init_from: the workdir of another run, or a model, whose weights the stages start from, and whose autoencoders
    are used where this run has none. sample_callback: shows the transformer's work, see build.py. announce: called
    once all inputs are known to be good. Running again goes on from the last checkpoint. Raises UserError for what the
    user can mend, before anything is computed, and where another run works in the workdir.
    """
    with _alone_in(workdir):
        return _train(release, config, data, mesh, workdir, stages, tokenizer, init_from, sample_callback, announce)


def _train(
    release: Release, config: TrainingConfig, data: DataConfig, mesh: Mesh, workdir: Path, stages: Sequence[StageName],
    tokenizer: Tokenizer | None, init_from: Path | None, sample: SampleCallback | None,
    announce: Callable[[], None] | None,
) -> dict[str, Any]:  # fmt: skip
    source = open_clips(data, release.video_vae.scale_factors, release.audio_vae.token_width)
    source = source or open_source(data, workdir)
    encoded = isinstance(source, Mixture)
    require(not encoded or set(stages) == {"dit"}, "Encoded clips can only train the transformer: add --stage=dit.")
    setting = Setting(release, config, data, mesh, source, tokenizer, workdir / "latents", sample)
    if "dit" in stages:
        check_start(config.dit, init_from)
    found = Weights(setting, workdir, init_from)
    _check(setting, stages, found)
    if announce is not None:
        announce()
    for name in STAGES:
        if name not in stages:
            continue
        if found.finished(name):
            say(f"{name}: finished before, skipped")
            continue
        _run(setting, name, found, workdir / name)
    return found.all()


def _check(setting: Setting, stages: Sequence[StageName], found: Weights) -> None:
    """Raise UserError now for what would stop a stage later, when those before it are trained and clips encoded."""
    release, config, data = setting.release, setting.config, setting.data
    waiting: list[StageName] = [name for name in stages if not found.finished(name)]
    for name in waiting:
        _note_uneven_batch(name, config.stage(name), setting.mesh)
    if "video_vae" in waiting:
        check_video_stage(release, config.video_vae, data.frames)
    if "audio_vae" in waiting:
        check_audio_stage(release, config.audio_vae, data.audio_samples)
    if "dit" not in waiting:
        return
    found.start("dit")
    if isinstance(setting.source, Mixture):
        shapes = [shape_of(bucket) for bucket in setting.source.buckets]
    else:
        shapes = [setting.shape]
        for name in AUTOENCODERS:
            if name not in stages:
                found.check(name)
    for shape in shapes:
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


def _run(setting: Setting, name: StageName, found: Weights, folder: Path) -> None:
    """Train one stage and leave its weights and marker behind."""
    start = found.start(name)
    if isinstance(setting.source, Mixture):
        stage = prepared_stage(setting, setting.source, start, found.encoders)
    elif name == "dit":
        stage = dit_stage(setting, start, found.encoders())
        if not setting.config.dit.train_text:
            found.forget("text")  # the captions are encoded
    else:
        stage = vae_stage(setting, name, start)
    state = run_stage(stage, folder)
    weights = dict(state.weights)
    if name in STATISTICS:
        measured = statistics(setting, name, stage, weights)
        weights[STATISTICS[name]] = place(measured, replicated_like(measured, setting.mesh))
    save_weights(folder / WEIGHTS, weights)
    if is_first():
        write_json(folder / FINISHED, {"steps": stage.config.steps, "identity": stage.identity})
    barrier(f"{name} is finished")
