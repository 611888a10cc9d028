"""One experiment: a model, a mesh, data and training, as the typed form of a config file.

`configs/*.py` call `experiment_config(release)` and override; the flags override that; `Experiment.from_config` checks
every value and builds the dataclasses. Defaults live in the dataclasses (and the release's declaration) alone.
"""

import dataclasses
import functools
import json
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_dict

from ltx_jax.bundle import Bundle
from ltx_jax.checkpoints.lora import save_lora
from ltx_jax.checkpoints.save import save_bundle
from ltx_jax.config import from_mapping, to_mapping
from ltx_jax.data.config import DataConfig
from ltx_jax.data.raw import toyworld
from ltx_jax.data.raw.toy import world
from ltx_jax.errors import UserError, require
from ltx_jax.files import write_text
from ltx_jax.models.text.tokenizer import Tokenizer, train_toy_tokenizer
from ltx_jax.models.video_vae.encoder import check_video_shape
from ltx_jax.names.dit import dit_names
from ltx_jax.parallel.mesh import MeshConfig
from ltx_jax.parallel.multihost import is_first, local_mesh, say
from ltx_jax.parts import parts_of
from ltx_jax.pipelines.previews import Previews
from ltx_jax.releases import Release, release
from ltx_jax.training.config import StageName, TrainingConfig
from ltx_jax.training.stages import train

# What the samples that a training run writes show.
PROMPTS = ("a red circle", "a blue square", "a green triangle", "a yellow diamond")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run is made of."""

    model: Release
    mesh: MeshConfig = MeshConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Experiment":
        """The validated experiment of a resolved config. Raises UserError with one sentence."""
        return from_mapping(cls, config.to_dict(), "config")

    def to_json(self) -> str:
        """The resolved config as JSON, as it is printed and saved with each run."""
        return json.dumps(to_mapping(self), indent=2)


def experiment_config(release_name: str) -> ConfigDict:
    """A ConfigDict with every setting of the release and of the defaults, ready to be overridden.

    Clips have the size that the release samples by default.
    """
    model = release(release_name)
    size = model.sampling
    data = DataConfig(frames=size.num_frames, height=size.height, width=size.width, fps=size.fps)
    return as_config_dict(Experiment(model=model, data=data))


def full_size_config(release_name: str) -> ConfigDict:
    """`experiment_config` of a published size: the transformer learns alone, in bfloat16, and keeps no activations.

    There is no moving average, and up to ten steps in a row are refused whose gradients jump.
    """
    config = experiment_config(release_name)
    config.training.dit.update(train_text=False, dtype="bfloat16", remat="full", ema_decay=0.0)
    config.training.dit.guard.update(max_skipped=10, spike=20.0)
    return config


def as_config_dict(config: Any) -> ConfigDict:
    """Dataclass to ConfigDict; optional fields that are empty become typed placeholders, so that flags can set them."""
    result = ConfigDict()
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            result[field.name] = as_config_dict(value)
        elif value is None:
            result[field.name] = _placeholder(_optional_type(hints[field.name]))
        else:
            result[field.name] = value
    return result


def _placeholder(kind: type) -> Any:
    """An empty value of a type, or an optional group all of whose settings are empty: absent until one is set."""
    if not dataclasses.is_dataclass(kind):
        return config_dict.placeholder(kind)
    hints = typing.get_type_hints(kind)
    return ConfigDict({f.name: _placeholder(_optional_type(hints[f.name])) for f in dataclasses.fields(kind)})


def _optional_type(hint: Any) -> type:
    options = [t for t in typing.get_args(hint) if t is not type(None)]
    kind = options[0] if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else hint
    origin = typing.get_origin(kind)
    return str if origin is typing.Literal else origin if isinstance(origin, type) else kind


def check_same_model(wanted: Release, found: Release, where: str) -> None:
    """Raise UserError naming the first part in which the model at `where` differs from the config's."""
    for field in dataclasses.fields(Release):
        if field.name in ("name", "version", "sampling"):
            continue
        ours, theirs = getattr(wanted, field.name), getattr(found, field.name)
        if ours != theirs:
            raise UserError(
                f"The config's {field.name} is not that of {where}{_first_difference(ours, theirs)}; "
                "use the config the weights were trained with, or give --checkpoint."
            )


def _first_difference(a: Any, b: Any) -> str:
    if not dataclasses.is_dataclass(a) or type(a) is not type(b):
        return f" ({a} against {b})"
    name = next(f.name for f in dataclasses.fields(a) if getattr(a, f.name) != getattr(b, f.name))
    return f" ({name}: {getattr(a, name)} against {getattr(b, name)})"


def run_training(
    experiment: Experiment, mesh: Mesh, workdir: Path, stages: Sequence[StageName], init_from: Path | None = None
) -> None:
    """Train `stages` in `workdir`; when all are done the model lies in workdir/model, in the official layout.

    With training.dit.lora only adapters are trained, and workdir/lora.safetensors is what comes of it. Raises
    UserError for what the user can mend, before anything is computed.
    """
    release, data = experiment.model, experiment.data
    check_video_shape(release.video_vae, data.frames, data.height, data.width)
    require(
        data.sample_rate == release.audio_vae.sampling_rate,
        f"data.sample_rate is {data.sample_rate}, but the audio VAE hears {release.audio_vae.sampling_rate} Hz.",
    )
    tokenizer = toy_tokenizer(release.text_length, data.world)

    def announce() -> None:
        say(experiment.to_json())
        if is_first():
            write_text(workdir / "config.json", experiment.to_json())

    sample = Previews(release, tokenizer, local_mesh(mesh), PROMPTS)
    lora = experiment.training.dit.lora
    stages = ("dit",) if lora is not None else stages
    params = train(
        release, experiment.training, data, mesh, workdir, stages, tokenizer=tokenizer, init_from=init_from,
        sample_callback=sample, announce=announce,
    )  # fmt: skip
    if lora is not None:
        path = workdir / "lora.safetensors"
        names, metadata = dit_names(release.transformer), experiment.training.dit.reference_metadata()
        if is_first():
            save_lora(path, params["lora"], names, scale=lora.scale, metadata=metadata)
        say(f"the LoRA is in {path}; try it with sample.py --lora={path}")
    elif {part.name for part in parts_of(release)} <= set(params) and is_first():
        save_bundle(Bundle(release, params, tokenizer), workdir / "model", ml_dtypes.bfloat16)
        print(f"the model is in {workdir / 'model'}", file=sys.stderr)


@functools.cache
def toy_tokenizer(text_length: int, version: str = "first") -> Tokenizer:
    """The byte-level tokenizer of the toy: its merges are the words of the toy world, any other text is bytes."""
    captions = (world if version == "exact" else toyworld).caption_corpus(1000)
    return Tokenizer(train_toy_tokenizer(captions).encode(), text_length)
