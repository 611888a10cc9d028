"""Reading a model from official files (or ours, which have the same layout): configuration first, parts when used."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltx_jax.bundle import Bundle, LazyParts
from ltx_jax.checkpoints.safetensors import SafetensorsFile
from ltx_jax.checkpoints.save import MODEL_FILE, TEXT_FOLDER
from ltx_jax.config import from_mapping
from ltx_jax.errors import UserError, require
from ltx_jax.models.text.config import TextConfig, text_config
from ltx_jax.models.text.duration import DurationConfig
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.models.upsampler import UpsamplerConfig
from ltx_jax.names import to_tree
from ltx_jax.parts import DURATION_PREFIX, OFFICIAL, OPTIONAL, Part, configs_from_official, find_part, parts_of
from ltx_jax.releases import Release, SamplingDefaults

TOY = Path(__file__).parents[1] / "assets" / "toy"  # the weights that ship with the package


def load_bundle(
    path: str | os.PathLike[str],
    text_encoder: str | os.PathLike[str] | None = None,
    dtype: Any = np.float32,
    *,
    others: Sequence[str | os.PathLike[str]] = (),
) -> Bundle:
    """A model from a folder (as `save_bundle` writes it), an official file of all parts, or "toy", the shipped one.

    The text encoder is the folder `text_encoder`, or the folder of that name beside the file. Parameters are read
    part by part at first use and cast to `dtype`, or for None kept as stored. others: files of latent upsamplers and of
    a duration head, besides those that `save_bundle` left beside the model. Raises UserError for missing, truncated,
    foreign or pickle files.
    """
    file = SafetensorsFile(_model_file(TOY if path == "toy" else Path(path)))
    folder = _text_folder(file.path, text_encoder)
    beside = [own for name in OPTIONAL if (own := file.path.with_name(f"{name}.safetensors")).is_file()]
    found = dict(map(_open_optional, (*([file] if _has_duration(file) else []), *beside, *others)))
    release = release_from_metadata(file, _text_config(folder))
    release = dataclasses.replace(release, **{name: config for name, (_, config) in found.items()})
    models = {"model": file, **{name: opened for name, (opened, _) in found.items()}}
    _check_present(release, models)
    files: dict[str, Mapping[str, np.ndarray]] = {**models, "text_encoder": _TextTensors(folder)}
    tensors = {name: held if dtype is None else _Cast(held, dtype) for name, held in files.items()}
    read = lambda part: functools.partial(read_part, part, release, tensors[part.file])
    loaders = {part.name: read(part) for part in parts_of(release)}
    tokenizer = Tokenizer(folder / "tokenizer.json", release.text_length)
    known = release.text.vocab_size
    if tokenizer.vocab_size > known:
        raise UserError(f"The tokenizer in '{folder}' has {tokenizer.vocab_size} entries, the text model only {known}.")
    return Bundle(release, LazyParts(loaders), tokenizer)


def load_text_model(folder: str | os.PathLike[str], release: Release, dtype: Any = None) -> Bundle:
    """The language model in a folder of its own: a bundle of the text part alone, of `release` but for that part.

    dtype: see `load_bundle`. Raises UserError for a folder that holds none.
    """
    folder = _text_folder(Path(folder), folder, "--prompt_enhancer")
    found = dataclasses.replace(release, name=str(folder), text=_text_config(folder))
    tensors: Mapping[str, np.ndarray] = _TextTensors(folder)
    tensors = tensors if dtype is None else _Cast(tensors, dtype)
    part = find_part(found, "text")
    loaders = {"text": functools.partial(read_part, part, found, tensors)}
    return Bundle(found, LazyParts(loaders), Tokenizer(folder / "tokenizer.json", found.text_length))


def release_from_metadata(file: SafetensorsFile, text: TextConfig) -> Release:
    """The declaration that a file's own metadata makes. Raises UserError when it has none."""
    config = file.json("config")
    if not isinstance(config, dict) or not all(isinstance(config.get(block), dict) for block, _ in OFFICIAL.values()):
        missing = "metadata 'config'" if not isinstance(config, dict) else "configuration of every part"
        raise UserError(f"'{file.path}' has no {missing}: it is no LTX-2 model file of all parts.")
    own = file.json("ltx_jax") if isinstance(file.json("ltx_jax"), dict) else {}
    return Release(
        name=own.get("name", file.path.stem),
        version=file.metadata.get("model_version", "2.0.0"),
        **configs_from_official(config, text),
        text_length=own.get("text_length", 1024),
        sampling=from_mapping(SamplingDefaults, own.get("sampling", {}), "metadata.ltx_jax.sampling"),
    )


def _open_optional(source: str | os.PathLike[str] | SafetensorsFile) -> tuple[str, tuple[SafetensorsFile, Any]]:
    """The part that a file holds besides or instead of a whole model: its name, the file and the configuration.

    The whole metadata `config` of an upsampler's file is its configuration.
    """
    file = source if isinstance(source, SafetensorsFile) else SafetensorsFile(Path(source))
    config = file.json("config")
    if _has_duration(file):
        return "duration_head", (file, DurationConfig.from_official(config if isinstance(config, dict) else {}))
    what = "no file of a latent upsampler or a duration head"
    require(isinstance(config, dict), f"'{file.path}' has no metadata 'config': it is {what}.")
    try:
        found = UpsamplerConfig.from_official(config)
    except UserError as error:
        raise UserError(f"'{file.path}' is {what}: {error}") from None
    return "temporal_upsampler" if found.temporal_upsample else "spatial_upsampler", (file, found)


def _has_duration(file: SafetensorsFile) -> bool:
    return any(name.startswith(DURATION_PREFIX) for name in file)


class _TextTensors(Mapping[str, np.ndarray]):
    """All tensors of a text encoder folder, whichever of its files holds them."""

    def __init__(self, folder: Path):
        self._where = {name: f for f in map(SafetensorsFile, sorted(folder.glob("*.safetensors"))) for name in f}
        if not self._where:
            raise UserError(f"The text encoder folder '{folder}' has no .safetensors file.")

    def __getitem__(self, name: str) -> np.ndarray:
        return self._where[name][name]

    def __iter__(self):
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _model_file(path: Path) -> Path:
    if path.is_dir():
        inside = [
            p for p in (path / MODEL_FILE, path / "model" / MODEL_FILE) if p.is_file()
        ]  # a model, or a run of ours
        if not inside:
            raise UserError(f"The folder '{path}' holds no finished model ({MODEL_FILE}); is its training done?")
        return inside[0]
    if not path.exists():
        raise UserError(f"There is no checkpoint '{path}'.")
    return path


def _text_folder(model: Path, given: str | os.PathLike[str] | None, flag: str = "--text_encoder") -> Path:
    folder = Path(given) if given is not None else model.parent / TEXT_FOLDER
    if not (folder / "config.json").is_file() or not (folder / "tokenizer.json").is_file():
        raise UserError(f"No text encoder in '{folder}' (config.json, tokenizer.json, weights); give {flag}=FOLDER.")
    return folder


def _text_config(folder: Path) -> TextConfig:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"'{folder / 'config.json'}' is no JSON.") from None
    return text_config(config)


def read_part(part: Part, release: Release, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our parameter tree of a part. Raises UserError naming the first missing tensor."""
    return to_tree(part.names_of(release), tensors, part.prefix_in(release, tensors))


class _Cast(Mapping[str, np.ndarray]):
    """`tensors` with floating ones cast to `dtype` as they are read."""

    def __init__(self, tensors: Mapping[str, np.ndarray], dtype: Any):
        self._tensors, self._dtype = tensors, dtype

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name].astype(self._dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self):
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _check_present(release: Release, files: Mapping[str, SafetensorsFile]) -> None:
    """Strict about parameters that the model has and its files lack, before anything is read."""
    for part in parts_of(release):
        if part.file not in files:
            continue
        file = files[part.file]
        prefix = part.prefix_in(release, file)
        wanted = [prefix + official for name in part.names_of(release) for official in name.officials()]
        lacking = [name for name in wanted if name not in file]
        if lacking:
            raise UserError(
                f"'{file.path}' lacks {len(lacking)} tensors of the {part.name}, the first being '{lacking[0]}'."
            )
