"""Which of the files that people have hold which part of a model: found by their headers.

A path may be an official file of all parts or of one, an index of shards, a folder (ours, of diffusers, of a text
encoder, a ComfyUI tree of models), or `hf:ORG/NAME[/FILE][@REVISION]`.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ltx_jax.checkpoints.hub import local_path
from ltx_jax.checkpoints.orbax_folder import SUFFIX as ORBAX
from ltx_jax.checkpoints.orbax_folder import OrbaxFolder
from ltx_jax.checkpoints.recognise import FEATURES, Held, described, held_parts, is_lora, normalised
from ltx_jax.checkpoints.safetensors import SafetensorsFile, Tensors, listed
from ltx_jax.checkpoints.views import Dequantised, Joined
from ltx_jax.errors import UserError, require
from ltx_jax.files import read_json
from ltx_jax.parts import OPTIONAL

MODEL_FILE = "model.safetensors"
TEXT_FOLDER = "text_encoder"
INDEX = ".safetensors.index.json"
Path_ = str | os.PathLike[str]

# Paths that may be given apart, each with the parts that it is asked for.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "transformer": ("transformer", "connectors"),
    "video_vae": ("video_encoder", "video_decoder", "video_statistics"),
    "audio_vae": ("audio_encoder", "audio_decoder", "audio_statistics", "vocoder"),
    "text_encoder": ("text", FEATURES),
    "spatial_upsampler": ("spatial_upsampler",),
    "temporal_upsampler": ("temporal_upsampler",),
    "duration_head": ("duration_head",),
}
WORDS = {
    "transformer": "transformer", "video_vae": "video VAE", "audio_vae": "audio VAE and vocoder",
    "text_encoder": "text encoder", "spatial_upsampler": "spatial latent upsampler",
    "temporal_upsampler": "temporal latent upsampler", "duration_head": "duration head",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Catalog:
    """Parts by name, each where it lies (features apart from the connectors), and where the text encoder's tokenizer
    and configuration are looked for first. ignored: files of no known part, LoRAs among them."""

    parts: Mapping[str, Held]
    text_root: Path | None = None
    ignored: tuple[Tensors, ...] = ()

    def sources(self) -> list[Tensors]:
        """What the parts are read from, each once."""
        return list({id(held.tensors): held.tensors for held in self.parts.values()}.values())


def find_parts(
    checkpoint: Path_ | None, files: Mapping[str, Path_ | None] | None = None, others: Sequence[Path_] = ()
) -> Catalog:
    """The parts at `checkpoint`, at the `files` of components (see COMPONENTS; they go first) and in `others`.

    Raises UserError for files that cannot be read, for one that is not what it was given for, and where two files of
    the checkpoint hold the same part.
    """
    parts: dict[str, Held] = {}
    rest: dict[str, Held] = {}  # what files hold beside what they are given for: of use where nothing else has it
    given = {name: local_path(path) for name, path in (files or {}).items() if path is not None}
    for name, path in given.items():
        found, _ = _parts_at(_sources(path, name), COMPONENTS[name])
        require(
            any(part in found for part in COMPONENTS[name]),
            f"'{path}' holds {_contents(path)}, but is given for the {WORDS[name]} (--{name}_path).",
        )
        parts |= {part: held for part, held in found.items() if part in COMPONENTS[name]}
        rest = {**found, **rest}
    for path in others:
        found, _ = _parts_at(_sources(local_path(path), "other"), ())
        require(
            any(part in found for part in OPTIONAL),
            f"'{path}' is no file of a latent upsampler or a duration head: it holds {_contents(local_path(path))}.",
        )
        parts = {**found, **parts}
    ignored: list[Tensors] = []
    root = given.get("text_encoder")
    if checkpoint is not None:
        path = local_path(checkpoint)
        found, ignored = _parts_at(_sources(path), tuple(parts))
        parts = {**found, **parts}
    return Catalog({**rest, **parts}, root, tuple(ignored))


def _parts_at(sources: Sequence[Tensors], known: Sequence[str]) -> tuple[dict[str, Held], list[Tensors]]:
    """The parts of `sources`, and those that hold none. known: parts that may lie in several, being given elsewhere."""
    parts: dict[str, Held] = {}
    ignored = []
    for source in sources:
        found = held_parts(source)
        if not found:
            ignored.append(source)
        for part, held in found.items():
            if part in parts and part not in known:
                name = next(c for c, own in COMPONENTS.items() if part in own)
                raise UserError(
                    f"'{parts[part].tensors.path}' and '{source.path}' both hold the {WORDS[name]}: name the one to "
                    f"use with --{name}_path."
                )
            parts.setdefault(part, held)
    return parts, ignored


def _contents(path: Path) -> str:
    return " and ".join(dict.fromkeys(described(source) for source in _sources(path))) or "nothing that is known"


def _sources(path: Path, component: str = "") -> list[Tensors]:
    """Everything to be read at a path, under official names, shards joined."""
    return [normalised(Dequantised(source)) for source in open_sources(path, component)]


def open_sources(path: Path, component: str = "") -> list[Tensors]:
    """The files at a path as they are, shards joined; of a folder all below it, of a file those beside it, too.

    component: what it is given for; beside the file of a component nothing is looked for.
    """
    if path.is_dir() and path.suffix != ORBAX:
        found = list(_in_folder(_root(path)))
        require(
            bool(found),
            f"The folder '{path}' holds no finished model: no .safetensors file lies in it. Is its training or its "
            "download done?",
        )
        return found
    require(path.exists(), f"There is no checkpoint '{path}'.")
    if path.name.endswith(INDEX):
        return [_sharded(path)]
    found = [opened(path)]
    if component or is_lora(found[0]):
        return found
    optional = [path.with_name(f"{name}{suffix}") for name in OPTIONAL for suffix in (".safetensors", ORBAX)]
    beside = [opened(own) for own in optional if own.exists() and own != path]
    text = path.with_name(TEXT_FOLDER)
    return [*found, *beside, *(_in_folder(text) if text.is_dir() else ())]


def opened(path: Path) -> Tensors:
    """A file of safetensors, or a folder of Orbax checkpoints."""
    return OrbaxFolder(path) if path.suffix == ORBAX else SafetensorsFile(path)


def _root(path: Path) -> Path:
    """The folder of a model within that of a run of ours."""
    if (path / MODEL_FILE).is_file():
        return path
    return path / "model" if (path / "model" / MODEL_FILE).is_file() else path


def _in_folder(folder: Path) -> Iterator[Tensors]:
    """All models below a folder; of a diffusers pipeline those that its index names."""
    listing = folder / "model_index.json"
    if listing.is_file():
        parts = [folder / name for name, kind in read_json(listing).items() if isinstance(kind, list)]
        for part in sorted(part for part in parts if part.is_dir()):
            yield from _in_folder(part)
        return
    hidden = lambda path: any(name.startswith(".") for name in path.relative_to(folder).parts)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not hidden(path))
    yield from (OrbaxFolder(p) for p in sorted(folder.rglob(f"*{ORBAX}")) if p.is_dir() and not hidden(p))
    shards: set[Path] = set()
    for index in (p for p in paths if p.name.endswith(INDEX)):
        joined = _sharded(index)
        shards |= set(_shards(index))
        yield joined
    groups: dict[str, list[Path]] = {}
    for path in (p for p in paths if p.suffix == ".safetensors" and p not in shards):
        groups.setdefault(re.sub(r"-\d{5}-of-\d{5}\.safetensors$", "", str(path)), []).append(path)
    for group in groups.values():
        yield SafetensorsFile(group[0]) if len(group) == 1 else Joined(group[0].parent, [*map(SafetensorsFile, group)])


def _shards(index: Path) -> list[Path]:
    listed = read_json(index)
    names = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(names, dict):
        raise UserError(f"'{index}' is no index of shards: it has no 'weight_map'.")
    return [index.parent / name for name in dict.fromkeys(names.values())]


def _sharded(index: Path) -> Tensors:
    shards = _shards(index)
    missing = [shard.name for shard in shards if not shard.is_file()]
    require(not missing, f"'{index}' names shards that are not there: {listed(missing)}.")
    joined = Joined(index.parent, [*map(SafetensorsFile, shards)])
    lacking = [name for name in read_json(index)["weight_map"] if name not in joined]
    require(not lacking, f"The shards of '{index}' lack tensors of the index: {listed(lacking)}.")
    return joined


# --- what lies beside a text encoder --------------------------------------------------------------------------------


def text_files(catalog: Catalog) -> tuple[Mapping[str, Any] | None, bytes]:
    """The config.json of the text encoder (None: nowhere), and its tokenizer.json, of its file or beside it.

    Raises UserError where there is no text encoder, or no tokenizer.
    """
    held = catalog.parts.get("text")
    where = catalog.text_root or (held.tensors.path.parent if held else Path())
    if held is None:
        raise UserError(
            "There is no text encoder beside the checkpoint (config.json, tokenizer.json, weights); give "
            "--text_encoder=FOLDER."
        )
    own = held.tensors.path
    folders = [own if own.is_dir() and own.suffix != ORBAX else own.parent]
    folders += [folders[0].parent / "tokenizer", *([where] if where.is_dir() else [])]
    config = held.tensors.json("gemma_config")
    if not isinstance(config, dict):
        path = next((f / "config.json" for f in folders if (f / "config.json").is_file()), None)
        config = None if path is None else read_json(path)
    return config, _tokenizer(held.tensors, folders)


def _tokenizer(tensors: Tensors, folders: Sequence[Path]) -> bytes:
    base = getattr(tensors, "base", tensors)  # the file's own names: an asset is no tensor of the network
    for source in (tensors, base):
        if "tokenizer_json" in source:
            return source["tokenizer_json"].tobytes()
    if text := tensors.metadata.get("tokenizer_json"):
        return text.encode()
    found = [f / "tokenizer.json" for f in folders if (f / "tokenizer.json").is_file()]
    found += [path for f in folders[2:] for path in sorted(f.rglob("tokenizer.json"))]
    if not found:
        raise UserError(
            f"There is no tokenizer.json beside the text encoder '{tensors.path}'; put that of its release there, or "
            "give --text_encoder=FOLDER."
        )
    return found[0].read_bytes()
