"""Official names of the Gemma 4 text decoder (spec gemma.md section 7), without the prefix `model.`."""

import dataclasses

from ltx_jax.models.text.config import Gemma4Config
from ltx_jax.names import Name
from ltx_jax.names.gemma3 import layer_names


def gemma4_names(config: Gemma4Config) -> list[Name]:
    """Names of every parameter of `Gemma4(config)`; the head is tied, so it has none."""
    names = [Name("embed_tokens.weight", ("embedding",)), Name("norm.weight", ("norm",))]
    period = config.period
    for i in range(period):
        shared = config.attention_k_eq_v and config.global_layers[i]  # values are keys: no projection
        own = [*layer_names("qko" if shared else "qkvo"), Name("layers.{i}.layer_scalar", ("layers", "layer_scalar"))]
        for name in own:
            path = (name.path[0], f"layer_{i}", *name.path[1:])
            count = config.num_hidden_layers // period
            names.append(dataclasses.replace(name, path=path, layers=count, first=i, step=period))
    return names
