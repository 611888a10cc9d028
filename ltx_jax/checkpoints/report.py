"""What files are, for people: release, parts, parameters, types, options, and what is missing to sample with them."""

import collections
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ltx_jax.checkpoints.catalog import COMPONENTS, WORDS, Catalog, find_parts, open_sources, text_files
from ltx_jax.checkpoints.describe import read_release
from ltx_jax.checkpoints.diagnose import REQUIRED, check_pairing, check_tensors
from ltx_jax.checkpoints.hub import local_path
from ltx_jax.checkpoints.recognise import described, held_parts, is_lora, normalised, part_of
from ltx_jax.checkpoints.safetensors import Tensors
from ltx_jax.checkpoints.views import quantisation
from ltx_jax.errors import UserError

_OPTIONS = (
    "_class_name", "num_layers", "num_attention_heads", "attention_head_dim", "rope_type", "frequencies_precision",
    "apply_gated_attention", "cross_attention_adaln", "ff_bias", "use_keyframes_abs_pos_embedding",
    "caption_proj_before_connector",
)  # fmt: skip


def report(path: str) -> Iterator[str]:
    """Lines about everything at `path`, and at last what is missing to sample with it."""
    where = local_path(path)
    for source in open_sources(where):
        yield from _about(source)
    yield _verdict(where)


def _about(source: Tensors) -> Iterator[str]:
    count, size = len(source), sum(map(source.nbytes, source))
    parameters = sum(math.prod(source.shape(name)) for name in source)
    yield f"{source.path}: {described(source)}"
    yield f"  {count} tensors, {parameters:,} parameters, {size / 1e9:.3f} GB, {_types(source)}"
    if kind := quantisation(source):
        yield f"  quantised: {kind}"
    version = source.metadata.get("model_version")
    config = source.json("config")
    if version or isinstance(config, dict):
        blocks = [*config] if isinstance(config, dict) else []
        yield f"  release {version or 'unknown'}; its metadata describes {', '.join(blocks) or 'nothing'}"
    if isinstance(config, dict) and isinstance(config.get("transformer", config), Mapping):
        options = {k: v for k, v in config.get("transformer", config).items() if k in _OPTIONS}
        yield "  " + ", ".join(f"{key}={value}" for key, value in options.items())
    if is_lora(source):
        ranks = collections.Counter(source.shape(n)[0] for n in source if ".lora_A." in n or ".lora_down." in n)
        yield f"  ranks {', '.join(map(str, sorted(ranks)))} of {sum(ranks.values())} modules"
        return
    for part, held in held_parts(normalised(source)).items():
        own = [name for name in held.tensors if part_of(name) == part or not held.prefix]
        yield f"  {part}: {sum(math.prod(held.tensors.shape(n)) for n in own):,} parameters behind '{held.prefix}'"


def _types(source: Tensors) -> str:
    found = collections.Counter(source.dtype(name).name for name in source)
    return ", ".join(f"{name} ({count})" for name, count in found.most_common())


def _verdict(where: Path) -> str:
    try:
        catalog = find_parts(where)
    except UserError as error:
        return f"not loaded as it is: {error}"
    missing = [part for part in REQUIRED if part not in catalog.parts]
    names = [name for name, parts in COMPONENTS.items() if any(part in missing for part in parts)]
    if missing:
        return "missing to sample with it: " + ", ".join(f"{WORDS[name]} (--{name}_path)" for name in names)
    try:
        return f"complete: sample.py --checkpoint={where} samples with it ({_checked(catalog)})"
    except UserError as error:
        return f"not usable: {error}"


def _checked(catalog: Catalog) -> str:
    config, _ = text_files(catalog)
    release: Any = read_release(catalog, config)
    check_pairing(catalog, config, release)
    check_tensors(catalog, release)
    optional = [name for name in ("spatial_upsampler", "temporal_upsampler", "duration_head") if name in catalog.parts]
    return f"{release.name}, version {release.version}" + "".join(f", with its {WORDS[name]}" for name in optional)
