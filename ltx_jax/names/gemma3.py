"""Official names of the Gemma 3 text decoder (spec gemma.md section 7), without the prefix `language_model.model.`."""

import dataclasses

from ltx_jax.models.text.config import Gemma3Config
from ltx_jax.names import Name, linear

_NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
)  # fmt: skip


def gemma3_names(config: Gemma3Config) -> list[Name]:
    """Names of every parameter of `Gemma3(config)`; the head is tied, so it has none."""
    layers = [dataclasses.replace(name, layers=config.num_hidden_layers) for name in layer_names("qkvo")]
    return [Name("embed_tokens.weight", ("embedding",)), Name("norm.weight", ("norm",)), *layers]


def layer_names(attention: str) -> list[Name]:
    """Names of one layer's parameters, with "{i}" for its number; attention: letters of the projections that it has."""
    names = []
    for group, parts in (("self_attn", attention), ("mlp", ("gate", "up", "down"))):
        for part in parts:
            names += linear(f"layers.{{i}}.{group}.{part}_proj", ("layers", f"{part}_proj"), False)
    for norm, official in [*((n, n) for n in _NORMS), *((n, f"self_attn.{n}") for n in ("q_norm", "k_norm"))]:
        names.append(Name(f"layers.{{i}}.{official}.weight", ("layers", norm)))
    return names
