"""The files of a model in one layout from those in another: plans of what each file holds, and their writing."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ltx_jax.checkpoints.catalog import MODEL_FILE, TEXT_FOLDER, Catalog, find_parts, opened, text_files
from ltx_jax.checkpoints.describe import block_of, read_release
from ltx_jax.checkpoints.diagnose import check_parts, check_tensors
from ltx_jax.checkpoints.diffusers_config import component_config
from ltx_jax.checkpoints.orbax_folder import SUFFIX as ORBAX
from ltx_jax.checkpoints.orbax_folder import write_orbax
from ltx_jax.checkpoints.recognise import part_of
from ltx_jax.checkpoints.safetensors import Tensors, checksum
from ltx_jax.checkpoints.save import metadata
from ltx_jax.checkpoints.views import Joined, Renamed
from ltx_jax.checkpoints.writer import stream_safetensors, write_manifest
from ltx_jax.errors import require
from ltx_jax.files import write_bytes, write_json
from ltx_jax.names.connectors import FEATURES_PREFIX
from ltx_jax.names.diffusers import COMPONENTS, diffusers_names
from ltx_jax.parts import OPTIONAL, PARTS
from ltx_jax.releases import Release

LAYOUTS = ("official", "split", "diffusers", "orbax")
TOKENIZER = "tokenizer_json"
_BLOCKS = {"video_vae": ("vae",), "audio_vae": ("audio_vae", "vocoder"), "transformer": ("transformer",)}
_SPLIT_FILE = {part.name: part.component[0] for part in PARTS}


@dataclasses.dataclass(frozen=True)
class Model:
    """What is converted: the parts, their declaration, and the text encoder's config.json and tokenizer.json."""

    catalog: Catalog
    release: Release
    text_config: Mapping[str, Any]
    tokenizer: bytes

    @classmethod
    def open(cls, path: str | None, files: Mapping[str, Any] | None = None) -> "Model":
        """The model at a path; see `find_parts`. Raises UserError as `load_bundle`."""
        catalog = find_parts(path, files)
        check_parts(catalog)
        config, tokenizer = text_files(catalog)
        release = read_release(catalog, config)
        check_tensors(catalog, release)
        return cls(catalog, release, config or {"text_config": release.text.to_official()}, tokenizer)

    @property
    def origin(self) -> str:
        """What changes when a file does that the model is read from."""
        paths = sorted({source.path for source in self.catalog.sources()})
        return json.dumps([[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths])


@dataclasses.dataclass(frozen=True)
class Output:
    """A file to be written: tensors under their new names, or plain bytes."""

    path: str
    tensors: Tensors | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    content: bytes = b""

    @property
    def nbytes(self) -> int:
        """Bytes of what it holds, without a header."""
        return len(self.content) if self.tensors is None else sum(map(self.tensors.nbytes, self.tensors))


def plan(model: Model, layout: str) -> list[Output]:
    """The files of `model` in a layout. Raises UserError for one that cannot hold it."""
    require(layout in LAYOUTS, f"There is no layout '{layout}'; known: {', '.join(LAYOUTS)}.")
    return list({"official": _official, "split": _split, "diffusers": _diffusers, "orbax": _orbax}[layout](model))


def _grouped(model: Model, home: Callable[[str, str], str]) -> dict[str, dict[str, tuple[Tensors, str]]]:
    """{file: {official name: (tensors, their name)}}. home: the file of a tensor by its part and official name.

    What no network reads goes with the part whose names begin alike, or with the text encoder.
    """
    found: dict[str, dict[str, tuple[Tensors, str]]] = {}
    for source in model.catalog.sources():
        for name in source:
            part = part_of(name) or next((p for p in OPTIONAL if _holds(model, p, source)), "text")
            if _holds(model, part, source) and name != TOKENIZER:
                found.setdefault(home(part, name), {})[name] = (source, name)
    return found


def _holds(model: Model, part: str, source: Tensors) -> bool:
    return part in model.catalog.parts and model.catalog.parts[part].tensors is source


def _view(entries: Mapping[str, tuple[Tensors, str]], spelled: Callable[[str], str] = lambda name: name) -> Tensors:
    """Tensors of several sources under new names."""
    sources = {id(tensors): tensors for tensors, _ in entries.values()}
    views = [
        Renamed(source, {spelled(new): ((old, None),) for new, (own, old) in entries.items() if own is source})
        for source in sources.values()
    ]
    return views[0] if len(views) == 1 else Joined(views[0].path, views)


def _metadata(model: Model, *blocks: str) -> dict[str, str]:
    """The model's own metadata where its files have them, else what its declaration says; of all blocks by default."""
    main = model.catalog.parts["transformer"].tensors
    made = metadata(model.release)
    found = {**made, **main.metadata}
    whole = json.loads(made["config"])
    for part in ("transformer", "video_decoder", "audio_decoder", "vocoder"):
        for block in whole:
            if (own := block_of(model.catalog.parts[part], block)) is not None:
                whole[block] = own
    found["config"] = json.dumps({block: whole[block] for block in blocks or whole})
    return found


def _optional(model: Model, files: Mapping[str, dict[str, tuple[Tensors, str]]]) -> Iterator[Output]:
    for name in OPTIONAL:
        if name in files:
            config = json.dumps(getattr(model.release, name).to_official())
            yield Output(f"{name}.safetensors", _view(files[name]), {"config": config})


def _official(model: Model) -> Iterator[Output]:
    home = lambda part, name: part if part in OPTIONAL else "text" if part == "text" else "model"
    files = _grouped(model, home)
    yield Output(MODEL_FILE, _view(files["model"]), _metadata(model))
    yield from _optional(model, files)
    yield from _text_folder(model, files["text"], TEXT_FOLDER, TEXT_FOLDER)


def _text_folder(model: Model, tensors: Any, folder: str, tokenizer: str) -> Iterator[Output]:
    yield Output(f"{folder}/{MODEL_FILE}", _view(tensors), {"format": "pt"})
    yield Output(f"{folder}/config.json", content=json.dumps(model.text_config, indent=1).encode())
    yield Output(f"{tokenizer}/tokenizer.json", content=model.tokenizer)


def _split(model: Model) -> Iterator[Output]:
    def home(part: str, name: str) -> str:
        return "text_encoder" if name.startswith(FEATURES_PREFIX) else _SPLIT_FILE.get(part, "text_encoder")

    files = _grouped(model, home)
    for name, blocks in _BLOCKS.items():
        yield Output(
            f"{name}.safetensors", _view(files[name], lambda n: n.removeprefix("vae.")), _metadata(model, *blocks)
        )
    yield from _optional(model, files)
    text = {"format": "pt", "gemma_config": json.dumps(model.text_config), TOKENIZER: model.tokenizer.decode()}
    yield Output("text_encoder.safetensors", _view(files["text_encoder"]), text)


def _orbax(model: Model) -> Iterator[Output]:
    """The official layout with a folder in the place of each file of tensors."""
    for output in _official(model):
        path = output.path if output.tensors is None else str(Path(output.path).with_suffix(ORBAX))
        yield dataclasses.replace(output, path=path)


_FOLDER = {
    "video_encoder": "vae", "video_decoder": "vae", "video_statistics": "vae", "audio_encoder": "audio_vae",
    "audio_decoder": "audio_vae", "audio_statistics": "audio_vae", "features": "connectors",
}  # fmt: skip


def _diffusers(model: Model) -> Iterator[Output]:
    files = _grouped(model, lambda part, name: _FOLDER.get(part, part))
    index: dict[str, Any] = {"_class_name": "LTX2Pipeline"}
    for folder, entries in files.items():
        if folder == "text" or folder not in COMPONENTS:
            continue
        table = diffusers_names(folder, entries)
        joined = _view(entries)
        renamed = {}
        for name, theirs in table.items():
            third = joined.shape(name)[0] // len(theirs) if joined.shape(name) else 0
            cut = len(theirs) > 1
            renamed |= {new: ((name, (i * third, (i + 1) * third) if cut else None),) for i, new in enumerate(theirs)}
        path = f"{folder}/diffusion_pytorch_model.safetensors"
        yield Output(path, Renamed(joined, renamed), _metadata(model))
        config = component_config(folder, model.release)
        yield Output(f"{folder}/config.json", content=json.dumps(config, indent=1).encode())
        index[folder] = ["ltx2", config["_class_name"]]
    for name in (name for name in OPTIONAL[:2] if name in files):
        config = json.dumps(getattr(model.release, name).to_official())
        yield Output(f"{name}/diffusion_pytorch_model.safetensors", _view(files[name]), {"config": config})
        index[name] = ["ltx2", "LTX2LatentUpsamplerModel"]
    yield from _text_folder(model, files["text"], TEXT_FOLDER, "tokenizer")
    index |= {"text_encoder": ["transformers", "AutoModel"], "tokenizer": ["transformers", "GemmaTokenizerFast"]}
    yield Output("model_index.json", content=json.dumps(index, indent=1).encode())


def write(outputs: Sequence[Output], folder: Path, origin: str, progress: Callable[[int], Any], manifest: bool) -> None:
    """Write what is planned below `folder`. manifest: leave checksums beside each file.

    What a stopped call has written is kept, and a file that it began is gone on with.
    """
    marks = []
    for output in outputs:
        path = folder / output.path
        if output.tensors is None:
            write_bytes(path, output.content)
            continue
        done = path.with_name(f".{path.name}.from.json")
        marks.append(done)
        mark = {"origin": origin, "names": sorted(output.tensors)}
        if path.exists() and done.is_file() and json.loads(done.read_text()) == mark:
            progress(output.nbytes)
        else:
            stream = write_orbax if path.suffix == ORBAX else stream_safetensors
            stream(path, output.tensors, output.metadata, progress, origin)
            write_json(done, mark)
        if manifest:
            write_manifest(path, opened(path), lambda size: None)
    for left in marks:
        left.unlink()


def verify(outputs: Sequence[Output], folder: Path, progress: Callable[[int], Any]) -> int:
    """Read everything back and compare checksums; the number of tensors. Raises UserError for one that differs."""
    count = 0
    for output in (o for o in outputs if o.tensors is not None):
        written = opened(folder / output.path)
        for name in output.tensors or ():
            assert output.tensors is not None
            same = name in written and checksum(written.read(name)) == checksum(output.tensors.read(name))
            require(same, f"'{written.path}' does not hold '{name}' as it was read; convert again.")
            progress(output.tensors.nbytes(name))
            count += 1
    return count


def described(outputs: Sequence[Output]) -> Iterator[str]:
    """The plan for people: a line per file with its size."""
    for output in outputs:
        what = "" if output.tensors is None else (
            f"  {len(output.tensors)} tensors, "
            f"{sum(math.prod(output.tensors.shape(n)) for n in output.tensors):,} parameters"
        )  # fmt: skip
        yield f"{output.nbytes / 1e9:10.3f} GB  {output.path}{what}"
    yield f"{sum(o.nbytes for o in outputs) / 1e9:10.3f} GB  in all"
