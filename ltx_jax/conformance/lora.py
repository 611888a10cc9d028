"""Recorded cases of LoRA: key layout, application and merge (spec transformer.md 14, training.md 5.4)."""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ltx_jax.checkpoints.lora import adapter_pairs, lora_tensors, merge_tensors
from ltx_jax.conformance.case import Case
from ltx_jax.models.dit.config import EXTRACTOR_PROJECTION, DiTConfig
from ltx_jax.models.dit.transformer import DiT, example_inputs
from ltx_jax.models.layers import Linear, abstract_params
from ltx_jax.names import linear, to_tree
from ltx_jax.names.dit import dit_names
from ltx_jax.training.lora import LoRAConfig, abstract_lora, initial_lora, scaled

Outputs = dict[str, Any]
ADAPTER_KEYS = ("rank", "alpha", "target_modules")


def _keys(case: Case) -> Outputs:
    """The number of keys and parameters of a new adapter; -1 where a key or a shape differs from the recorded ones."""
    transformer = {k: v for k, v in case.config.items() if k not in (*ADAPTER_KEYS, "caption_projection")}
    own = case.config.get("caption_projection", False)  # whether the transformer projects captions itself
    transformer |= {"caption_channels": transformer.get("caption_channels") or 8} if own else EXTRACTOR_PROJECTION
    config = DiTConfig.from_official(transformer)
    lora = _lora_config(case, tuple(case.config["target_modules"]))
    shapes, axes = abstract_params(DiT(config), *example_inputs(config))
    tree = initial_lora(abstract_lora(lora, config, shapes, axes)[0], 0)
    tensors = lora_tensors(tree, dit_names(config), lora.scale)
    same = {k: list(v.shape) for k, v in tensors.items()} == json.loads(case.notes)["keys"]
    counts = (len(tensors), sum(v.size for v in tensors.values())) if same else (-1, -1)
    return {"num_keys": np.int32(counts[0]), "num_params": np.int32(counts[1])}


def _apply(case: Case) -> Outputs:
    """One adapted layer by the collection, and its merged weight."""
    adapter = {k: v for k, v in case.weights.items() if ".lora_" in k}
    base = {k: v for k, v in case.weights.items() if k not in adapter}
    (module,) = pairs = adapter_pairs(adapter)
    config, (a, b) = _lora_config(case, (module,)), pairs[module]
    params = to_tree(linear(module, (), f"{module}.bias" in base), base)
    layer = Linear(b.shape[0], ("embed", "heads"), "bias" in params)
    variables = {"params": params, "lora": scaled({"a": jnp.asarray(a.T), "b": jnp.asarray(b.T)}, config.scale)}
    scaled_pairs = {module: (a, b * np.float32(config.scale))}
    return {
        "y": jax.jit(layer.apply)(variables, case.inputs["x"]),
        "merged_weight": merge_tensors(base, [scaled_pairs], [1.0], np.float32)[f"{module}.weight"],
    }


def _lora_config(case: Case, targets: tuple[str, ...]) -> LoRAConfig:
    return LoRAConfig(case.config["rank"], case.config["alpha"], targets)


def _merge(case: Case) -> Outputs:
    strengths = case.config["strengths"]
    adapters = []
    for i in range(len(strengths)):
        prefix = f"lora{i}/"
        tensors = {k.removeprefix(prefix): v for k, v in case.inputs.items() if k.startswith(prefix)}
        adapters.append(adapter_pairs(tensors))
    dtype = ml_dtypes.bfloat16 if case.config["dtype"] == "bfloat16" else np.float32
    weights = {k: v.astype(dtype) for k, v in case.weights.items()}
    merged = merge_tensors(weights, adapters, strengths, dtype)
    return {k: v.astype(np.float32) for k, v in merged.items()}


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "training.lora_keys": _keys,
    "training.lora_apply": _apply,
    "dit.lora_merge": _merge,
}
