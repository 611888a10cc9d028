"""Official names of the Gemma 3 text decoder (spec gemma.md section 7), without the prefix `language_model.model.`."""

from ltx_jax.models.text.config import Gemma3Config
from ltx_jax.names import Name, linear

_NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
)  # fmt: skip


def gemma3_names(config: Gemma3Config) -> list[Name]:
    """Names of every parameter of `Gemma3(config)`; the head is tied, so it has none."""
    layers = config.num_hidden_layers
    names = [Name("embed_tokens.weight", ("embedding",)), Name("norm.weight", ("norm",))]
    for group, parts in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down"))):
        for part in parts:
            names += linear(f"layers.{{i}}.{group}.{part}_proj", ("layers", f"{part}_proj"), False, layers)
    for norm, official in [*((n, n) for n in _NORMS), *((n, f"self_attn.{n}") for n in ("q_norm", "k_norm"))]:
        names.append(Name(f"layers.{{i}}.{official}.weight", ("layers", norm), None, layers))
    return names
