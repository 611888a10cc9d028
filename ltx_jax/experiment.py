"""One experiment: a model, a mesh, data and training, as the typed form of a config file.

`configs/*.py` call `experiment_config(release)` and override; the flags override that; `Experiment.from_config` checks
every value and builds the dataclasses. Defaults live in the dataclasses (and the release's declaration) alone.
"""

import dataclasses
import json
import types
import typing
from typing import Any

from ml_collections import ConfigDict, config_dict

from ltx_jax.config import from_mapping, to_mapping
from ltx_jax.data.config import DataConfig
from ltx_jax.errors import require
from ltx_jax.parallel.mesh import MeshConfig
from ltx_jax.parts import OPTIONAL, Configs
from ltx_jax.releases import Release, first_difference, release
from ltx_jax.training.config import TrainingConfig


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
    guard = {"max_skipped": 10, "spike": 20.0}
    stage = {"train_text": False, "dtype": "bfloat16", "remat": "full", "ema_decay": 0.0, "guard": guard}
    config.update({"training": {"dit": stage}})
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
    """Raise UserError naming the first setting in which the model at `where` differs from the config's.

    Optional parts are a matter of the files alone.
    """
    fields = [f.name for f in dataclasses.fields(Configs) if f.name not in OPTIONAL]
    what = first_difference(wanted, found, fields)
    require(
        what is None,
        f"The config's {what} is not that of {where}; use the config the weights were trained with, or give "
        "--checkpoint.",
    )
