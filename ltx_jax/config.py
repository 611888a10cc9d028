"""From nested mappings (ConfigDict, JSON metadata) to small frozen dataclasses and back, with a sentence per mistake.

Each part of the system declares one frozen dataclass whose fields carry the defaults and whose `__post_init__`
validates; this module only converts. Fields may be scalars, tuples, `X | None`, other such dataclasses, or plain
mappings (`dict`).
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ltx_jax.errors import UserError

T = TypeVar("T")


def from_mapping(
    cls: type[T], mapping: Mapping[str, Any], where: str = "config", ignore: frozenset[str] = frozenset()
) -> T:
    """Build the dataclass `cls` from `mapping`; `where` is the dotted place named in errors.

    Keys in `ignore` are skipped. Raises UserError on an unknown key (naming the nearest known one), a missing
    required key, or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in mapping:
        if key not in known and key not in ignore:
            near = difflib.get_close_matches(str(key), list(known), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}."
            raise UserError(f"Unknown key '{where}.{key}'; {hint}")
    values = {name: _convert(hints[name], mapping[name], f"{where}.{name}") for name in known if name in mapping}
    missing = [n for n, f in known.items() if n not in values and _required(f)]
    if missing:
        raise UserError(f"Missing key '{where}.{missing[0]}': it has no default and must be given.")
    return cls(**values)


def to_mapping(config: Any) -> Any:
    """The inverse of `from_mapping`: dataclasses become dicts, tuples become lists (so it can be written as JSON)."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_mapping(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}
    if isinstance(config, Mapping):
        return {k: to_mapping(v) for k, v in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_mapping(v) for v in config]
    return config


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"'{where}' must be a group of settings, not {value!r}.")
        return from_mapping(hint, value, where)
    if origin is tuple:
        return _convert_tuple(hint, value, where)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise UserError(f"'{where}' is {value!r}, but must be one of {', '.join(map(str, allowed))}.")
        return value
    return _convert_scalar(hint, value, where)


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    options = [t for t in typing.get_args(hint) if t is not type(None)]
    if value is None:
        if type(None) in typing.get_args(hint):
            return None
        raise UserError(f"'{where}' must not be empty.")
    if type(None) in typing.get_args(hint) and dataclasses.is_dataclass(options[0]) and isinstance(value, Mapping):
        value = {k: v for k, v in value.items() if v is not None}  # an optional group is absent until one of it is set
        if not value:
            return None
    if isinstance(value, Mapping):  # last the group that has most of the keys: its sentence is the one that is said
        fields = lambda option: {f.name for f in dataclasses.fields(option)} if dataclasses.is_dataclass(option) else ()
        options.sort(key=lambda option: sum(key in fields(option) for key in value))
    for option in options[:-1]:
        try:
            return _convert(option, value, where)
        except UserError:
            continue
    return _convert(options[-1], value, where)


def _convert_tuple(hint: Any, value: Any, where: str) -> tuple:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise UserError(f"'{where}' must be a list, not {value!r}.")
    args, values = typing.get_args(hint), list(value)
    if not args:
        return tuple(values)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(values))
    if len(values) != len(args):
        raise UserError(f"'{where}' must have {len(args)} entries, not {len(values)}.")
    return tuple(_convert(t, v, f"{where}[{i}]") for i, (t, v) in enumerate(zip(args, values, strict=True)))


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint in (Any, dict) or typing.get_origin(hint) in (dict, Mapping):
        return dict(value) if isinstance(value, Mapping) else value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:  # YAML 1.1 and JSON authors write 1e-4 as a string; accept it
            return float(value)
        except ValueError:
            pass
    if hint is int and isinstance(value, (int, float)) and not isinstance(value, bool) and int(value) == value:
        return int(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"'{where}' must be of type {getattr(hint, '__name__', hint)}, not {value!r}.")
