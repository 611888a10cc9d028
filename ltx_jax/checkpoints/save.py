"""Writing a model in the official layout: one file of all parts with its configuration, and the text encoder folder."""

import collections
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ltx_jax.bundle import Bundle
from ltx_jax.checkpoints.catalog import MODEL_FILE, TEXT_FOLDER
from ltx_jax.checkpoints.safetensors import write_safetensors
from ltx_jax.config import to_mapping
from ltx_jax.files import write_json, write_text
from ltx_jax.names import to_official
from ltx_jax.parts import OPTIONAL, configs_to_official, parts_of
from ltx_jax.releases import Release

TABLE = "scale_shift_table"  # modulation tables stay float32 in official files (spec transformer.md 2.1)


def save_bundle(bundle: Bundle, folder: str | os.PathLike[str], dtype: Any = np.float32) -> None:
    """Write every part of `bundle` below `folder`: MODEL_FILE, a file per optional part, and TEXT_FOLDER (config,
    tokenizer, weights).

    Floating tensors are stored in `dtype`, modulation tables in float32. Files appear whole or not at all.
    """
    folder = Path(folder)
    files: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    for part in parts_of(bundle.release):
        params = jax.tree.map(np.asarray, bundle.params[part.name])
        tensors = to_official(part.names_of(bundle.release), params, part.prefixes[0])
        files[part.file].update({k: _stored(k, v, dtype) for k, v in tensors.items()})
    write_safetensors(folder / MODEL_FILE, files["model"], metadata(bundle.release))
    for name in set(files) & set(OPTIONAL):
        config = getattr(bundle.release, name).to_official()
        write_safetensors(folder / f"{name}.safetensors", files[name], {"config": json.dumps(config)})
    if bundle.tokenizer is not None:
        text = folder / TEXT_FOLDER
        write_safetensors(text / MODEL_FILE, files["text_encoder"], {"format": "pt"})
        write_json(text / "config.json", {"text_config": bundle.release.text.to_official()})
        write_text(text / "tokenizer.json", bundle.tokenizer.to_json())


def metadata(release: Release) -> dict[str, str]:
    """The metadata of a model file: official `config` and `model_version`, and our defaults under `ltx_jax`."""
    own = {name: getattr(release, name) for name in ("name", "text_length", "process")}
    own["sampling"] = to_mapping(release.sampling)
    return {
        "config": json.dumps(configs_to_official(release)),
        "model_version": release.version,
        "ltx_jax": json.dumps(own),
    }


def _stored(name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating) or name.endswith(TABLE) or TABLE in name:
        return array
    return array.astype(dtype)
