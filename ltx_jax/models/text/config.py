"""Configuration of the Gemma 3 text decoder, in the fields of the official config.json's `text_config`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ltx_jax.config import from_mapping
from ltx_jax.errors import UserError, require

GLOBAL, LOCAL = "full_attention", "sliding_attention"
_ONLY = {  # switches of the published format with one supported value
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}


@dataclasses.dataclass(frozen=True)
class Gemma3Config:
    """Sizes and constants of the decoder (spec gemma.md section 3; its defaults of missing fields).

    sliding_window: keys a local layer sees, the query's own included. Layer i is global iff `layer_types` says so, or,
    without that list, iff (i + 1) is a multiple of `sliding_window_pattern`. rope_factor divides the rotary
    frequencies of global layers.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    sliding_window: int
    vocab_size: int = 262208
    head_dim: int = 256
    query_pre_attn_scalar: float = 256.0
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    rope_local_base_freq: float = 1e4
    rope_factor: float = 1.0
    sliding_window_pattern: int = 6
    layer_types: tuple[str, ...] = ()

    def __post_init__(self):
        require(
            min(self.hidden_size, self.intermediate_size, self.num_hidden_layers, self.vocab_size) > 0,
            "Gemma 3 needs positive hidden_size, intermediate_size, num_hidden_layers and vocab_size.",
        )
        require(self.sliding_window > 0, f"Gemma 3's sliding_window must be positive, not {self.sliding_window}.")
        require(self.sliding_window_pattern > 0, "Gemma 3's sliding_window_pattern must be positive.")
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        require(
            0 < groups <= heads and heads % groups == 0,
            f"Gemma 3's {heads} attention heads must be a multiple of its {groups} key/value heads.",
        )
        require(self.head_dim % 2 == 0 and self.head_dim > 0, f"Gemma 3's head_dim {self.head_dim} must be even.")
        require(
            not self.layer_types or len(self.layer_types) == self.num_hidden_layers,
            f"Gemma 3's layer_types has {len(self.layer_types)} entries for {self.num_hidden_layers} layers.",
        )
        for kind in self.layer_types:
            require(kind in (GLOBAL, LOCAL), f"Gemma 3's layer type '{kind}' is neither {GLOBAL} nor {LOCAL}.")

    @property
    def global_layers(self) -> tuple[bool, ...]:
        """For each layer, whether it sees the whole past (True) or a sliding window (False)."""
        if self.layer_types:
            return tuple(kind == GLOBAL for kind in self.layer_types)
        return tuple((i + 1) % self.sliding_window_pattern == 0 for i in range(self.num_hidden_layers))

    @classmethod
    def from_official(cls, text_config: Mapping[str, Any]) -> "Gemma3Config":
        """From `text_config` of a config.json, old or new style; fields that are of no effect here are ignored.

        Raises UserError for another model, for a switch with an unsupported value, and for missing sizes.
        """
        given = {k: v for k, v in text_config.items() if v is not None}
        kind = given.get("model_type", "gemma3_text")
        require(str(kind).startswith("gemma3"), f"The text encoder is a '{kind}', but must be a 'gemma3_text'.")
        for key, value in _ONLY.items():
            if given.get(key, value) != value:
                raise UserError(f"Gemma 3 with {key} = {given[key]!r} is not supported (only {value!r}).")
        if "_sliding_window_pattern" in given:  # the name in which newer libraries keep it
            given.setdefault("sliding_window_pattern", given["_sliding_window_pattern"])
        given.update(_rope(given))
        known = {f.name for f in dataclasses.fields(cls)}
        return from_mapping(cls, {k: v for k, v in given.items() if k in known}, "text_config")

    def to_official(self) -> dict[str, Any]:
        """The mapping that `from_official` reads back to an equal config."""
        fields = dataclasses.asdict(self)
        factor, layer_types = fields.pop("rope_factor"), fields.pop("layer_types")
        if factor != 1:
            fields["rope_scaling"] = {"rope_type": "linear", "factor": factor}
        if layer_types:
            fields["layer_types"] = list(layer_types)
        return {"model_type": "gemma3_text", **fields, **_ONLY}


def _rope(given: Mapping[str, Any]) -> dict[str, float]:
    """Rotary fields of either style: `rope_scaling` beside `rope_theta`, or `rope_parameters` by kind of layer."""
    parameters = given.get("rope_parameters")
    if parameters is None:
        return {"rope_factor": _linear_factor(given.get("rope_scaling") or {})}
    require(
        isinstance(parameters, Mapping) and GLOBAL in parameters and LOCAL in parameters,
        f"Gemma 3's rope_parameters must hold '{GLOBAL}' and '{LOCAL}'.",
    )
    require(_linear_factor(parameters[LOCAL]) == 1, "Gemma 3's local layers must have no rotary scaling factor.")
    fields = {"rope_factor": _linear_factor(parameters[GLOBAL])}
    for kind, field in ((GLOBAL, "rope_theta"), (LOCAL, "rope_local_base_freq")):
        if "rope_theta" in parameters[kind]:
            fields[field] = parameters[kind]["rope_theta"]
    return fields


def _linear_factor(scaling: Mapping[str, Any]) -> float:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    require(kind in ("default", "linear"), f"Gemma 3's rotary scaling '{kind}' is not supported (only 'linear').")
    return float(scaling.get("factor", 1.0)) if kind == "linear" else 1.0
