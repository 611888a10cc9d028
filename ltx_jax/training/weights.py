"""The weights that a run starts from and leaves behind, by stage, each part read when it is first used."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ltx_jax.bundle import LazyParts, abstract_weights, networks_on
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.checkpoints.orbax import load_weights, stored_parts
from ltx_jax.errors import UserError
from ltx_jax.parallel.multihost import to_host
from ltx_jax.parallel.program import with_shardings
from ltx_jax.parallel.rules import param_shardings
from ltx_jax.training.build import Setting, stage_parts
from ltx_jax.training.config import STAGES, StageName
from ltx_jax.training.dit.objective import DIT_PARTS, abstract_trainable
from ltx_jax.training.lora import PART as LORA
from ltx_jax.training.record import check_config

FINISHED, WEIGHTS = "finished.json", "weights"
STATISTICS: dict[StageName, str] = {"video_vae": "video_statistics", "audio_vae": "audio_statistics"}
AUTOENCODERS = tuple(STATISTICS)


class Weights:
    """Trained weights by stage: of this run, or else of `init_from`, a model or another run.

    Raises UserError when there is nothing at `init_from`, or no model.
    """

    def __init__(self, setting: Setting, workdir: Path, init_from: Path | None):
        self._setting, self._workdir, self._other = setting, workdir, init_from
        self._model = None
        self._parts: dict[StageName, LazyParts | None] = {}
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

    def start(self, name: StageName) -> Mapping[str, Any] | None:
        """Parameters that a stage starts from (of the transformer's, frozen ones too), or None for random ones."""
        if name not in self._parts:
            self._parts[name] = self._given(name)
        return self._parts[name]

    def forget(self, part: str) -> None:
        """Let go of the start's `part`, which is read again if it is needed again."""
        for parts in (*self._parts.values(), self._model.params if self._model is not None else None):
            if isinstance(parts, LazyParts):
                parts.drop(part)

    def encoders(self) -> Mapping[str, Any]:
        """Parameters of both autoencoders. Raises UserError when one is not trained."""
        loaders = {}
        for name in AUTOENCODERS:
            self.check(name)
            weights = self._of(name)
            assert weights is not None
            loaders |= {part: functools.partial(weights.__getitem__, part) for part in weights}
        return LazyParts(loaders)

    def check(self, name: StageName) -> None:
        """Raise UserError when the autoencoder of the stage is not trained."""
        if not (self._workdir / name / FINISHED).is_file() and self.start(name) is None:
            raise UserError(
                f"The transformer needs the trained {name}: run --stage={name} first, or name a run that has it with "
                "--init_from."
            )

    def all(self) -> dict[str, Any]:
        """Host arrays of every part there is, by part; of a LoRA run the adapters alone."""
        config = self._setting.config.dit
        if config.lora is not None:
            return to_host(dict(self._of("dit") or {}))
        trained = {name: self._of(name) for name in STAGES}
        if not config.train_text:  # what stayed frozen belongs to the model too
            own, start = trained["dit"] or {}, self.start("dit") or {}
            trained["dit"] = {**{part: start[part] for part in start if part not in own}, **own}
        return to_host({part: tree for weights in trained.values() if weights for part, tree in weights.items()})

    def _of(self, name: StageName) -> Mapping[str, Any] | None:
        if (self._workdir / name / FINISHED).is_file():
            return self._stored(self._workdir / name / WEIGHTS, name, stage_parts(name, self._setting.config.dit))
        return self.start(name)

    def _given(self, name: StageName) -> LazyParts | None:
        """Parameters of `init_from`, if it has them."""
        parts = DIT_PARTS if name == "dit" else stage_parts(name, self._setting.config.dit)
        if self._model is not None:
            extra = (STATISTICS[name],) if name in STATISTICS else ()
            return _read_when_used(self._model.params, (*parts, *extra))
        if self._other is None or not (self._other / name / FINISHED).is_file():
            return None
        folder = self._other / name / WEIGHTS
        stored = stored_parts(folder)
        if LORA in stored:
            raise UserError(
                f"'{self._other}' is a LoRA run: name the model that it adapted with --init_from, and its "
                "lora.safetensors with --config.training.dit.lora.init."
            )
        own = self._stored(folder, name, tuple(part for part in parts if part in stored))
        frozen = tuple(part for part in parts if part not in stored)
        model = self._other / "model"
        if not frozen or not model.is_dir():
            return own
        rest = load_bundle(model).params  # what stayed frozen there
        return LazyParts({p: functools.partial((rest if p in frozen else own).__getitem__, p) for p in parts})

    def _stored(self, folder: Path, name: StageName, parts: tuple[str, ...]) -> LazyParts:
        """The parts of a stage's weights. Of several processes all read together, so that all is read now."""
        extra = (STATISTICS[name],) if name in STATISTICS else ()
        loaders = {part: functools.partial(self._load, folder, part) for part in (*parts, *extra)}
        lazy = LazyParts(loaders)
        if jax.process_count() > 1:
            dict(lazy)
        return lazy

    def _load(self, folder: Path, part: str) -> Any:
        setting, mesh = self._setting, self._setting.mesh
        nets = networks_on(mesh, setting.release)
        if part == LORA:
            with jax.set_mesh(mesh):
                shapes, axes = abstract_trainable(nets, setting.config.dit)
            abstract = with_shardings(shapes, param_shardings(axes, shapes, mesh))
        else:
            abstract = abstract_weights(nets, (part,), mesh)
        weights = load_weights(folder, {part: abstract[part]})[part]
        return weights if jax.process_count() == 1 else to_host(weights)  # a process can read its own shards alone


def _read_when_used(params: Mapping[str, Any], parts: tuple[str, ...]) -> LazyParts:
    return LazyParts({part: functools.partial(params.__getitem__, part) for part in parts})
