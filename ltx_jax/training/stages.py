"""A whole training run: the stages in order, finished ones skipped, each ending in weights that the next one uses.

Below the workdir every stage has a folder: checkpoints, metrics, samples, and, once it is done, `weights` (of the
moving average where there is one) and `finished.json`.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.checkpoints.orbax import load_weights, save_weights
from ltx_jax.config import require
from ltx_jax.data.config import DataConfig
from ltx_jax.data.datasets import open_clips
from ltx_jax.data.mixture import Mixture
from ltx_jax.data.source import open_source
from ltx_jax.errors import UserError
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.parallel.multihost import barrier, is_first, say, to_host
from ltx_jax.parallel.program import place, replicated, replicated_like, with_shardings
from ltx_jax.parallel.rules import param_shardings
from ltx_jax.releases import Release
from ltx_jax.training.build import (
    SampleCallback,
    Setting,
    networks,
    stage_parts,
    statistics,
    vae_stage,
)
from ltx_jax.training.build_dit import NETWORKS, check_start, dit_stage
from ltx_jax.training.build_prepared import prepared_stage
from ltx_jax.training.config import STAGES, StageName, TrainingConfig
from ltx_jax.training.dit import abstract_trainable
from ltx_jax.training.loop import run_stage
from ltx_jax.training.lora import PART as LORA
from ltx_jax.training.parts import abstract_parts
from ltx_jax.training.record import check_config, write_json

FINISHED, WEIGHTS = "finished.json", "weights"
STATISTICS: dict[StageName, str] = {"video_vae": "video_statistics", "audio_vae": "audio_statistics"}


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

    init_from: the workdir of another run, or a model, whose weights the stages start from, and whose autoencoders
    are used where this run has none. sample_callback: shows the transformer's work, see build.py. announce: called
    once all inputs are known to be good. Running again goes on from the last checkpoint. Raises UserError for what the
    user can mend.
    """
    make_workdir(workdir)
    source = open_clips(data, release.video_vae.scale_factors, release.audio_vae.token_width)
    source = source or open_source(data, workdir)
    encoded = isinstance(source, Mixture)
    require(not encoded or set(stages) == {"dit"}, "Encoded clips can only train the transformer: add --stage=dit.")
    setting = Setting(release, config, data, mesh, source, tokenizer, workdir / "latents", sample_callback)
    if "dit" in stages:
        check_start(config.dit, init_from)
    found = _Weights(setting, workdir, init_from)
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


def make_workdir(workdir: Path) -> None:
    """Create the folder. Raises UserError when that is not possible."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The workdir '{workdir}' cannot be made ({error.strerror}); choose another.") from None


def _run(setting: Setting, name: StageName, found: "_Weights", folder: Path) -> None:
    """Train one stage and leave its weights and marker behind."""
    start = found.start(name)
    if isinstance(setting.source, Mixture):
        stage = prepared_stage(setting, setting.source, start, found.encoders)
    elif name == "dit":
        stage = dit_stage(setting, start, found.encoders())
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


class _Weights:
    """Trained weights by stage: of this run, or else of `init_from`."""

    def __init__(self, setting: Setting, workdir: Path, init_from: Path | None):
        self._setting, self._workdir = setting, workdir
        self._other = init_from
        self._model = None
        if init_from is None:
            return
        if not Path(init_from).exists():
            raise UserError(f"There is nothing at --init_from '{init_from}'.")
        if not any((init_from / name / FINISHED).is_file() for name in STAGES):
            self._model = load_bundle(init_from / "model" if (init_from / "model").is_dir() else init_from)

    def finished(self, name: StageName) -> bool:
        """Whether this run has trained the stage. Raises UserError when it was with another configuration."""
        marker = self._workdir / name / FINISHED
        if not marker.is_file():
            return False
        stored = json.loads(marker.read_text(encoding="utf-8"))["identity"]
        check_config(self._setting.identity(name), stored, str(marker.parent))
        return True

    def start(self, name: StageName) -> Any:
        """Parameters that a stage starts from (of the transformer's, frozen ones too), or None for random ones."""
        return None if self._other is None else self._given(name)

    def encoders(self) -> dict[str, Any]:
        """Parameters of both autoencoders. Raises UserError when one is not trained."""
        result = {}
        for name in ("video_vae", "audio_vae"):
            weights = self._of(name)
            if weights is None:
                raise UserError(
                    f"The transformer needs the trained {name}: run --stage={name} first, or name a run that has it "
                    "with --init_from."
                )
            result |= weights
        return result

    def all(self) -> dict[str, Any]:
        """Host arrays of every part there is, by part."""
        trained = {name: self._of(name) for name in STAGES}
        config = self._setting.config.dit
        if config.lora is not None or not config.train_text:  # what stayed frozen belongs to the model too
            trained["dit"] = {**(self.start("dit") or {}), **(trained["dit"] or {})}
        return to_host({part: tree for weights in trained.values() if weights for part, tree in weights.items()})

    def _of(self, name: StageName) -> dict[str, Any] | None:
        if (self._workdir / name / FINISHED).is_file():
            return self._load(self._workdir / name / WEIGHTS, name, stage_parts(name, self._setting.config.dit))
        return self._given(name)

    def _given(self, name: StageName) -> dict[str, Any] | None:
        """Parameters of `init_from`, if it has them."""
        parts = NETWORKS if name == "dit" else stage_parts(name, self._setting.config.dit)
        if self._model is not None:
            extra = (STATISTICS[name],) if name in STATISTICS else ()
            return {part: self._model.params[part] for part in (*parts, *extra)}
        if self._other is not None and (self._other / name / FINISHED).is_file():
            return self._load(self._other / name / WEIGHTS, name, parts)
        return None

    def _load(self, folder: Path, name: StageName, parts: Sequence[str]) -> dict[str, Any]:
        setting = self._setting
        nets = networks(setting.release, "float32", setting.mesh)
        with jax.set_mesh(setting.mesh):
            if LORA in parts:
                shapes, axes = abstract_trainable(setting.release, nets, setting.config.dit)
            else:
                shapes, axes = abstract_parts(setting.release, nets, parts)
        abstract = with_shardings(shapes, param_shardings(axes, shapes, setting.mesh))
        if name in STATISTICS:
            release = setting.release
            width = release.video_vae.latent_channels if name == "video_vae" else release.audio_vae.token_width
            vector = jax.ShapeDtypeStruct((width,), np.float32, sharding=replicated(setting.mesh))
            abstract[STATISTICS[name]] = {"mean": vector, "std": vector}
        weights = load_weights(folder, abstract)
        return weights if jax.process_count() == 1 else to_host(weights)  # a process can read its own shards alone
