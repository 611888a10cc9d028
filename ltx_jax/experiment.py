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
from ltx_jax.errors import UserError
from ltx_jax.parallel.mesh import MeshConfig
from ltx_jax.releases import Release, release
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
    """A ConfigDict with every setting of the release and of the defaults, ready to be overridden."""
    return _config_dict(Experiment(model=release(release_name)))


def _config_dict(config: Any) -> ConfigDict:
    """Dataclass to ConfigDict; optional fields that are empty become typed placeholders, so that flags can set them."""
    result = ConfigDict()
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            result[field.name] = _config_dict(value)
        elif value is None:
            result[field.name] = config_dict.placeholder(_optional_type(hints[field.name]))
        else:
            result[field.name] = value
    return result


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
