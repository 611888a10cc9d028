"""The weights that a run starts from and leaves behind, by stage, each part read when it is first used."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from ltx_jax.bundle import LazyParts, abstract_parts, abstract_weights, make_networks, networks_on
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.checkpoints.orbax import load_weights, stored_parts
from ltx_jax.checkpoints.save import TEXT_FOLDER
from ltx_jax.data.raw.toy_tokenizer import toy_tokenizer
from ltx_jax.errors import UserError, require
from ltx_jax.files import read_json
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.multihost import say, to_host
from ltx_jax.parallel.program import with_shardings
from ltx_jax.parallel.rules import param_shardings
from ltx_jax.parts import parts_of
from ltx_jax.releases import Release, first_difference
from ltx_jax.training.autoencoders.stage import STATISTICS
from ltx_jax.training.config import STAGES, DiTStageConfig, StageName
from ltx_jax.training.dit.objective import abstract_trainable, trainable_parts
from ltx_jax.training.lora import PART as LORA
from ltx_jax.training.record import check_config, differing_keys
from ltx_jax.training.setting import DEPENDS, PARTS, Params, Setting

FINISHED, WEIGHTS, TOKENIZER = "finished.json", "weights", "tokenizer.json"
AUTOENCODERS = tuple(STATISTICS)


class Weights:
    """Trained weights by stage, and the tokenizer: of this run, or else of `init_from`, a model or another run.

    text_encoder: the folder of the model's, where it does not lie beside it. Raises UserError when there is nothing at
    `init_from`, or no model.
    """

    def __init__(self, setting: Setting, init_from: Path | None, text_encoder: Path | None = None):
        self._setting, self._workdir, self._other = setting, setting.workdir, init_from
        self._model = None
        self._parts: dict[StageName, LazyParts | None] = {}
        if init_from is None:
            return
        if not Path(init_from).exists():
            raise UserError(f"There is nothing at --init_from '{init_from}'.")
        if not any((init_from / name / FINISHED).is_file() for name in STAGES):
            whole = init_from / "model" if (init_from / "model").is_dir() else init_from
            self._model = load_bundle(whole, text_encoder)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that belongs to the text encoder: that of `init_from`, else the one that this run began with.

        A new text encoder gets that of the toy. Raises UserError for one with more entries than the text encoder.
        """
        release, other = self._setting.release, self._other
        if self._model is not None and self._model.tokenizer is not None:
            found = Tokenizer(self._model.tokenizer.to_json().encode(), release.text_length)
        else:
            kept = [other / "dit" / TOKENIZER, other / "model" / TEXT_FOLDER / TOKENIZER] if other is not None else []
            kept = [path for path in (*kept, self._workdir / "dit" / TOKENIZER) if path.is_file()]
            new = lambda: toy_tokenizer(release.text_length, self._setting.data.world)
            found = Tokenizer(kept[0], release.text_length) if kept else new()
        known = release.text.vocab_size
        require(
            found.vocab_size <= known, f"The tokenizer has {found.vocab_size} entries, the text model only {known}."
        )
        return found

    def finished(self, name: StageName) -> bool:
        """Whether this run has trained the stage. Raises UserError when it was with another configuration."""
        marker = self._workdir / name / FINISHED
        if not marker.is_file():
            return False
        stored = read_json(marker)["identity"]
        check_config(self._setting.identity(name), stored, str(marker.parent))
        return True

    def start(self, name: StageName) -> Params | None:
        """Parameters that a stage starts from (of the transformer's, frozen ones too), or None for random ones.

        Raises UserError where they are of another architecture than the config's.
        """
        if name not in self._parts:
            self._parts[name] = self._given(name)
        return self._parts[name]

    def forget(self, part: str) -> None:
        """Let go of the start's `part`, which is read again if it is needed again."""
        for parts in (*self._parts.values(), self._model.params if self._model is not None else None):
            if isinstance(parts, LazyParts):
                parts.drop(part)

    def encoders(self, names: Sequence[StageName] = AUTOENCODERS) -> Params:
        """Parameters of both autoencoders, or of those of some stages. Raises UserError when one is not trained."""
        loaders = {}
        for name in names:
            self.check(name)
            weights = self._of(name)
            assert weights is not None
            loaders |= {part: functools.partial(weights.__getitem__, part) for part in weights}
        return LazyParts(loaders)

    def decoders(self) -> Params | None:
        """Parameters of both autoencoders, for what is shown of a training alone; None when one is not trained."""
        try:
            return self.encoders()
        except UserError:
            return None

    def check(self, name: StageName) -> None:
        """Raise UserError when the autoencoder of the stage is not trained."""
        if not (self._workdir / name / FINISHED).is_file() and self.start(name) is None:
            raise UserError(
                f"This stage needs the trained {name}: run --stage={name} first, or name a run that has it with "
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

    def _check_architecture(self, name: StageName) -> None:
        """Raise UserError when what `init_from` has for a stage has other parameters than the config's networks."""
        release, other = self._setting.release, self._other
        advice = (
            f"is not that of '{other}', whose weights are of another architecture; use the config of those weights."
        )
        if self._model is not None:
            found, what = self._model.release, first_difference(release, self._model.release, DEPENDS[name])
            if what is not None:
                require(
                    parameter_shapes(release, name) == parameter_shapes(found, name), f"The config's {what} {advice}"
                )
                say(f"note: the config's {what} is not that of '{other}'; the weights fit both")
        elif other is not None and (other / name / FINISHED).is_file():
            stored = read_json(other / name / FINISHED)["identity"]["model"]
            ours = json.loads(json.dumps(self._setting.identity(name)["model"]))
            keys = differing_keys(ours, stored, shared=True)
            require(not keys, f"The config's {', '.join(keys[:3])} {advice}")

    def _of(self, name: StageName) -> Params | None:
        if (self._workdir / name / FINISHED).is_file():
            return self._stored(self._workdir / name / WEIGHTS, name, stage_parts(name, self._setting.config.dit))
        return self.start(name)

    def _given(self, name: StageName) -> LazyParts | None:
        """Parameters of `init_from`, if it has them."""
        parts = PARTS[name]
        wanted = {row.name for row in parts_of(self._setting.release)} & set(parts)
        if not wanted or (self._model is not None and not wanted & set(self._model.params)):
            return None  # an optional part, which one of them lacks
        self._check_architecture(name)
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


def _read_when_used(params: Params, parts: tuple[str, ...]) -> LazyParts:
    return LazyParts({part: functools.partial(params.__getitem__, part) for part in parts})


def stage_parts(name: StageName, config: DiTStageConfig) -> tuple[str, ...]:
    """Names of the parts that a stage trains and leaves behind."""
    return trainable_parts(config) if name == "dit" else PARTS[name]


def parameter_shapes(release: Release, name: StageName) -> Any:
    """Shapes of the parameters that a stage begins with, by part."""
    parts = PARTS[name]
    with jax.set_mesh(make_mesh(MeshConfig(), jax.local_devices()[:1])):
        shapes, _ = abstract_parts(make_networks(release), [row.name for row in parts_of(release) if row.name in parts])
    return jax.tree.map(lambda x: x.shape, shapes)


def joined(*groups: Params | None) -> LazyParts:
    """Parameters of several groups by part, those of later groups first, each read when it is used."""
    present = [group for group in groups if group is not None]
    return LazyParts({part: functools.partial(group.__getitem__, part) for group in present for part in group})
