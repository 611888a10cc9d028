"""LoRA files as the trainers of this field write them: whose module a key means, and by what its product is scaled.

Keys are spelled with dots (PEFT, diffusers, ComfyUI, ai-toolkit, the official trainer) or with underscores (kohya,
musubi-tuner), below prefixes of several kinds. The scale alpha / rank lies in a tensor `alpha` beside the pair, in the
file's metadata, or nowhere; then it is 1 (spec transformer.md 14).
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltx_jax.checkpoints.lora_scale import LoRASettings
from ltx_jax.checkpoints.safetensors import SafetensorsFile
from ltx_jax.errors import require
from ltx_jax.files import read_text
from ltx_jax.names.diffusers import diffusers_module, official_module

Pair = tuple[np.ndarray, np.ndarray]  # A (rank, in), B (out, rank)

_KEY = re.compile(
    r"(?P<module>.+?)(?:"
    r"\.lora_(?P<letter>[AB])(?:\.[^.]+?)??(?:\.weight)?"  # PEFT may put the adapter's name behind A and B
    r"|[._]lora(?:_linear_layer)?[_.](?P<way>down|up)(?:\.weight)?"
    r"|\.(?P<alpha>alpha))"
)
_PREFIX = re.compile(r"(?:(?:base_model|model|module|_orig_mod|diffusion_model|velocity_model|transformer|unet)\.)*")
_PREFIX_WORDS = {
    "", "base", "model", "module", "orig", "mod", "pipe", "net", "diffusion", "velocity", "transformer", "unet", "dit",
    "lora", "lycoris",
}  # fmt: skip
_OTHER_KINDS = {
    "DoRA": r"dora_scale|lora_magnitude_vector",
    "LoHa": r"\.hada_",
    "LoKr": r"\.lokr_",
    "OFT": r"\.b?oft_",
    "VeRA": r"vera_lambda",
    "GLoRA": r"\.[ab][12]\.weight$",
    "LoRA of three matrices": r"lora_mid",
    "LoRA with biases": r"lora_[AB]\..*bias$|lora_(?:up|down)\.bias$",
    "LoRA of embeddings": r"lora_embedding_",
    "LoRA with differences of whole tensors": r"\.(?:diff|diff_b|set_weight|w_norm|b_norm)$",
}
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What a LoRA file holds: pairs by official module name (without prefix), scale in B, and its metadata."""

    pairs: dict[str, Pair]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


def load_lora(path: str | os.PathLike[str], modules: Iterable[str] = ()) -> Adapter:
    """The adapter in a file of any usual spelling.

    modules: official names of the model's linear layers, which keys with underscores need to be told apart. Raises
    UserError for a file that holds none, half a pair, another kind of adapter or a scale that makes no sense.
    """
    file, beside = SafetensorsFile(path), Path(path).with_name("adapter_config.json")
    metadata = dict(file.metadata)
    if Path(path).name.startswith("adapter_model") and beside.is_file():  # PEFT's own way: settings in a file apart
        metadata = {"adapter_config": read_text(beside), **metadata}
    return Adapter(adapter_pairs(file, str(path), metadata, modules), file.metadata)


def adapter_pairs(
    tensors: Mapping[str, np.ndarray],
    where: str = "LoRA",
    metadata: Mapping[str, str] | None = None,
    modules: Iterable[str] = (),
) -> dict[str, Pair]:
    """Pairs by official module name, the scale multiplied into B; arguments and errors as of `load_lora`."""
    table = {_flat(name): module for module in modules for name in _spellings(module)}
    matches = {key: _KEY.fullmatch(key) for key in tensors}
    _refuse_other_kinds(matches, where)
    sides: dict[str, dict[str, Any]] = {}
    for key, match in matches.items():
        assert match is not None
        side = match["letter"] or {"down": "A", "up": "B", None: "alpha"}[match["way"]]
        own = sides.setdefault(_module(match["module"], table), {"spelled": match["module"]})
        require(side not in own, f"'{where}' holds two LoRAs of '{match['module']}'; keep one of them.")
        own |= {side: tensors[key], "kohya": own.get("kohya", False) or bool(match["way"])}
    require(bool(sides), f"'{where}' holds no LoRA.")
    settings = LoRASettings(metadata or {}, where)
    if not any(side["kohya"] or "alpha" in side for side in sides.values()):
        settings.note_converted()
    return {module: _pair(module, side, settings, where) for module, side in sides.items()}


def listed(names: Iterable[str]) -> str:
    """The first few names, quoted, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more


# --- keys -----------------------------------------------------------------------------------------------------------


def _refuse_other_kinds(matches: Mapping[str, Any], where: str) -> None:
    for kind, pattern in _OTHER_KINDS.items():
        found = next((key for key in matches if re.search(pattern, key)), None)
        require(
            found is None,
            f"'{where}' is an adapter of the kind {kind} (it has the tensor '{found}'), which is not supported; "
            "give a plain LoRA, or merge it into the model where it was trained.",
        )
    strange = [key for key, match in matches.items() if match is None]
    require(not strange, f"'{where}' has tensors that are no part of a LoRA: {listed(strange)}.")


def _spellings(module: str) -> list[str]:
    """The names of an official module: its own, the one of diffusers, and those that old attention processors had."""
    names = [module, diffusers_module(module)]
    return names + [name.removesuffix(".0") for name in names if name.endswith(".to_out.0")]


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _module(spelled: str, table: Mapping[str, str]) -> str:
    """The official module of a key's first half; of a module that is not in the table, its name without prefixes."""
    words = _flat(spelled.replace(".processor", "")).split("_")
    for i, word in enumerate(words):
        if (found := table.get("_".join(words[i:]))) is not None:
            return found
        if word not in _PREFIX_WORDS:
            break
    return official_module(_PREFIX.sub("", spelled, count=1))


# --- scale ----------------------------------------------------------------------------------------------------------


def _pair(module: str, side: Mapping[str, Any], settings: LoRASettings, where: str) -> Pair:
    require("A" in side and "B" in side, f"'{where}' has only one half of the LoRA of '{module}'.")
    a, b = (_matrix(side[letter]) for letter in "AB")
    require(
        a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1],
        f"'{where}' has a LoRA of '{module}' whose halves {a.shape} and {b.shape} do not fit together.",
    )
    if "alpha" in side:
        require(np.size(side["alpha"]) == 1, f"'{where}' has several alphas for the LoRA of '{module}'.")
        scale = float(np.reshape(side["alpha"], ())) / a.shape[0]
    else:
        names = [module, diffusers_module(module), _PREFIX.sub("", side["spelled"], count=1)]
        scale = settings.scale(names, a.shape[0], side["kohya"])
    require(math.isfinite(scale), f"'{where}' scales the LoRA of '{module}' by {scale}, which is no number.")
    return a, b if scale == 1 else b.astype(np.float32) * np.float32(scale)


def _matrix(x: np.ndarray) -> np.ndarray:
    """A matrix stored as a convolution of kernel size 1, or as it is."""
    return x.reshape(x.shape[:2]) if x.ndim > 2 and x.size == math.prod(x.shape[:2]) else x
