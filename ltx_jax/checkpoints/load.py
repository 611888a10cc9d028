"""Reading a model from the files that people have: configuration and names first, parts when they are used."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltx_jax.bundle import Bundle, LazyParts
from ltx_jax.checkpoints.catalog import Catalog, find_parts, text_files
from ltx_jax.checkpoints.describe import inferred, read_release
from ltx_jax.checkpoints.diagnose import check_pairing, check_parts, check_tensors
from ltx_jax.checkpoints.recognise import FEATURES, Held
from ltx_jax.checkpoints.safetensors import Tensors
from ltx_jax.checkpoints.streaming import PartReader
from ltx_jax.checkpoints.tables import part_shapes
from ltx_jax.checkpoints.views import Filled, Joined, Renamed
from ltx_jax.errors import UserError
from ltx_jax.models.text.config import text_config
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.names import Name
from ltx_jax.names.connectors import FEATURES_PREFIX
from ltx_jax.parts import Part, find_part, parts_of
from ltx_jax.releases import Release

TOY = Path(__file__).parents[1] / "assets" / "toy"  # the weights that ship with the package
Path_ = str | os.PathLike[str]


def load_bundle(
    path: Path_ | None,
    text_encoder: Path_ | None = None,
    dtype: Any = np.float32,
    *,
    files: Mapping[str, Path_ | None] | None = None,
    others: Sequence[Path_] = (),
) -> Bundle:
    """A model from its files: see `catalog.py` for what `path` may be; "toy" is the one that ships with the package.

    text_encoder: its folder or file, where the path does not hold it. files: paths of components by name, which go
    before those at `path` (see `catalog.COMPONENTS`); with all of them `path` may be None. others: files of optional
    parts. Parameters are read part by part at first use and cast to `dtype`, or for None kept as stored. Raises
    UserError for files that are missing, damaged, of another format, of another model, or do not belong together.
    """
    given = {**(files or {}), **({} if text_encoder is None else {"text_encoder": text_encoder})}
    catalog = find_parts(TOY if path == "toy" else path, given, others)
    check_parts(catalog)
    config, assets = text_files(catalog)
    release = read_release(catalog, config)
    check_pairing(catalog, config, release)
    check_tensors(catalog, release)
    tokenizer = Tokenizer(assets, release.text_length)
    known = release.text.vocab_size
    if tokenizer.vocab_size > known:
        raise UserError(
            f"The tokenizer beside '{catalog.parts['text'].tensors.path}' has {tokenizer.vocab_size} entries, the text "
            f"model only {known}."
        )
    distilled = "distilled" in catalog.parts["transformer"].tensors.path.name.lower()  # no metadata says it
    return Bundle(release, LazyParts(_loaders(parts_of(release), release, catalog, dtype)), tokenizer, distilled)


def load_text_model(path: Path_, release: Release, dtype: Any = None) -> Bundle:
    """The language model of a folder or file: a bundle of the text part alone, of `release` but for that part.

    dtype: see `load_bundle`. Raises UserError where there is none.
    """
    try:
        catalog = find_parts(None, {"text_encoder": path})
        config, assets = text_files(catalog)
    except UserError as error:
        needed = "--prompt_enhancer takes a folder of config.json, tokenizer.json and weights"
        raise UserError(f"{needed}. {error}") from None
    text = text_config(config) if config is not None else inferred("text", catalog)
    found = dataclasses.replace(release, name=str(path), text=text)
    part = find_part(found, "text")
    check_tensors(catalog, found, ("text",))
    return Bundle(found, LazyParts(_loaders([part], found, catalog, dtype)), Tokenizer(assets, found.text_length))


def _loaders(parts: Iterable[Part], release: Release, catalog: Catalog, dtype: Any) -> dict[str, Callable[[], Any]]:
    loaders = {}
    for part in parts:
        names, held = part_source(part, release, catalog)
        loaders[part.name] = PartReader(part.name, names, held.tensors, held.prefix, dtype)
    return loaders


def part_source(part: Part, release: Release, catalog: Catalog) -> tuple[list[Name], Held]:
    """A part's names and what they are read from; the connectors' part may lie in two files."""
    names, held = part.names_of(release), catalog.parts[part.name]
    lacking = [o for name in names if name.optional for o in name.officials() if held.prefix + o not in held.tensors]
    if lacking:
        shapes = part_shapes(release, part.name)
        held = Held(Filled(held.tensors, {held.prefix + o: shapes[o] for o in lacking}), held.prefix)
    if part.name != "connectors":
        return names, held
    features = catalog.parts[FEATURES].tensors
    if features is held.tensors:
        return names, Held(features, "")
    of = lambda tensors, own: Renamed(
        tensors, {name: ((name, None),) for name in tensors if name.startswith(FEATURES_PREFIX) == own}
    )
    joined: Tensors = Joined(held.tensors.path, [of(held.tensors, False), of(features, True)])
    return names, Held(joined, "")
