"""Configuration of the Gemma text decoders, in the fields of the official config.json's `text_config`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ltx_jax.config import from_mapping
from ltx_jax.errors import UserError, require

GLOBAL, LOCAL = "full_attention", "sliding_attention"
_ONLY = {  # switches of the published format of Gemma 3 with one supported value
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
_ONLY_4 = {  # the same of Gemma 4: what its dense members (spec gemma.md, end of section 6) have beside is not built
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "use_double_wide_mlp": False,
    "enable_moe_block": False,
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
        require(self.sliding_window_pattern > 0, "Gemma 3's sliding_window_pattern must be positive.")
        _check(self, "Gemma 3", {self.head_dim}, {self.num_key_value_heads})

    @property
    def global_layers(self) -> tuple[bool, ...]:
        """For each layer, whether it sees the whole past (True) or a sliding window (False)."""
        return _global_layers(self, self.sliding_window_pattern)

    @classmethod
    def from_official(cls, text_config: Mapping[str, Any]) -> "Gemma3Config":
        """From `text_config` of a config.json, old or new style; fields that are of no effect here are ignored.

        Raises UserError for another model, for a switch with an unsupported value, and for missing sizes.
        """
        given = {k: v for k, v in text_config.items() if v is not None}
        kind = given.get("model_type", "gemma3_text")
        require(str(kind).startswith("gemma3"), f"The text encoder is a '{kind}', but must be a 'gemma3_text'.")
        _check_switches(given, _ONLY, "Gemma 3")
        if "_sliding_window_pattern" in given:  # the name in which newer libraries keep it
            given.setdefault("sliding_window_pattern", given["_sliding_window_pattern"])
        given.update(_rope(given))
        return from_mapping(cls, _known(cls, given), "text_config")

    def to_official(self) -> dict[str, Any]:
        """The mapping that `from_official` reads back to an equal config."""
        fields = dataclasses.asdict(self)
        factor, layer_types = fields.pop("rope_factor"), fields.pop("layer_types")
        if factor != 1:
            fields["rope_scaling"] = {"rope_type": "linear", "factor": factor}
        if layer_types:
            fields["layer_types"] = list(layer_types)
        return {"model_type": "gemma3_text", **fields, **_ONLY}


@dataclasses.dataclass(frozen=True)
class Gemma4Config:
    """Sizes and constants of the "unified" decoder (spec gemma.md section 4; the values of its table are defaults).

    Local layers have `num_key_value_heads` of `head_dim`. Global ones have heads of `global_head_dim`, and with
    `attention_k_eq_v` only `num_global_key_value_heads`, whose values are the keys before norm and rotation.
    partial_rotary_factor: share of a global head's pairs that turn. final_logit_softcapping: None for plain logits.
    layer_types: empty where every sixth layer is global.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    sliding_window: int
    vocab_size: int = 262144
    head_dim: int = 256
    global_head_dim: int = 512
    num_global_key_value_heads: int = 1
    attention_k_eq_v: bool = True
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    rope_local_base_freq: float = 1e4
    partial_rotary_factor: float = 0.25
    final_logit_softcapping: float | None = 30.0
    layer_types: tuple[str, ...] = ()

    def __post_init__(self):
        _check(
            self, "Gemma 4", {self.head_dim, self.global_head_dim}, {self.heads_of(False)[1], self.heads_of(True)[1]}
        )
        require(0 <= self.partial_rotary_factor <= 1, "Gemma 4's partial_rotary_factor must lie in 0..1.")

    @property
    def global_layers(self) -> tuple[bool, ...]:
        """For each layer, whether it sees the whole past (True) or a sliding window (False)."""
        return _global_layers(self, 6)

    @property
    def period(self) -> int:
        """After how many layers their kinds repeat; all of them where they do not."""
        kinds, count = self.global_layers, self.num_hidden_layers
        return next(p for p in range(1, count + 1) if count % p == 0 and kinds == kinds[:p] * (count // p))

    def heads_of(self, is_global: bool) -> tuple[int, int, int]:
        """Query heads, key/value heads and head width of a layer."""
        if not is_global:
            return self.num_attention_heads, self.num_key_value_heads, self.head_dim
        groups = self.num_global_key_value_heads if self.attention_k_eq_v else self.num_key_value_heads
        return self.num_attention_heads, groups, self.global_head_dim

    @classmethod
    def from_official(cls, text_config: Mapping[str, Any]) -> "Gemma4Config":
        """From `text_config` of a config.json; fields that are of no effect here are ignored.

        Raises UserError for another model, for a switch with an unsupported value, and for missing sizes.
        """
        given = {k: v for k, v in text_config.items() if v is not None}
        kind = given.get("model_type", "gemma4_unified_text")
        require(str(kind).startswith("gemma4"), f"The text encoder is a '{kind}', but must be a 'gemma4_unified_text'.")
        _check_switches(given, _ONLY_4, "Gemma 4")
        parameters = given.get("rope_parameters", {})
        full, local = (parameters.get(k) or {} for k in (GLOBAL, LOCAL))
        known_kinds = full.get("rope_type", "proportional"), local.get("rope_type", "default")
        require(
            known_kinds == ("proportional", "default"), f"Gemma 4's rotary scalings {known_kinds} are not supported."
        )
        renamed = (
            ("rope_theta", full.get("rope_theta")), ("rope_local_base_freq", local.get("rope_theta")),
            ("partial_rotary_factor", full.get("partial_rotary_factor")),
        )  # fmt: skip
        given.update({name: value for name, value in renamed if value is not None})
        values = _known(cls, given)
        if "final_logit_softcapping" in text_config:  # null means none
            values["final_logit_softcapping"] = text_config["final_logit_softcapping"]
        return from_mapping(cls, values, "text_config")

    def to_official(self) -> dict[str, Any]:
        """The mapping that `from_official` reads back to an equal config."""
        fields = dataclasses.asdict(self)
        layer_types = fields.pop("layer_types")
        full = {"rope_type": "proportional", "rope_theta": fields.pop("rope_theta")}
        full["partial_rotary_factor"] = fields.pop("partial_rotary_factor")
        local = {"rope_type": "default", "rope_theta": fields.pop("rope_local_base_freq")}
        fields |= {"layer_types": list(layer_types)} if layer_types else {}
        return {
            "model_type": "gemma4_unified_text", **fields, "rope_parameters": {GLOBAL: full, LOCAL: local}, **_ONLY_4
        }  # fmt: skip


TextConfig = Gemma3Config | Gemma4Config


def text_config(official: Mapping[str, Any]) -> TextConfig:
    """The configuration that a config.json describes, of either Gemma, whole or its `text_config`. Raises UserError."""
    fields = official.get("text_config") or official
    kind = str(fields.get("model_type") or official.get("model_type") or "gemma3_text")
    return (Gemma4Config if kind.startswith("gemma4") else Gemma3Config).from_official(fields)


def _global_layers(config: TextConfig, every: int) -> tuple[bool, ...]:
    """Whether each layer is global: as `layer_types` says, or every so many-th."""
    if config.layer_types:
        return tuple(kind == GLOBAL for kind in config.layer_types)
    return tuple((i + 1) % every == 0 for i in range(config.num_hidden_layers))


def _check(config: TextConfig, name: str, widths: set[int], groups: set[int]) -> None:
    """Raise UserError for sizes that no decoder can have. widths, groups: of heads, and numbers of key/value heads."""
    require(
        min(config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size) > 0,
        f"{name} needs positive hidden_size, intermediate_size, num_hidden_layers and vocab_size.",
    )
    require(config.sliding_window > 0, f"{name}'s sliding_window must be positive, not {config.sliding_window}.")
    heads = config.num_attention_heads
    for count in groups:
        require(
            0 < count <= heads and heads % count == 0,
            f"{name}'s {heads} attention heads must be a multiple of its {count} key/value heads.",
        )
    for width in widths:
        require(width % 2 == 0 and width > 0, f"{name}'s head_dim {width} must be even.")
    require(
        not config.layer_types or len(config.layer_types) == config.num_hidden_layers,
        f"{name}'s layer_types has {len(config.layer_types)} entries for {config.num_hidden_layers} layers.",
    )
    for kind in config.layer_types:
        require(kind in (GLOBAL, LOCAL), f"{name}'s layer type '{kind}' is neither {GLOBAL} nor {LOCAL}.")


def _check_switches(given: Mapping[str, Any], only: Mapping[str, Any], name: str) -> None:
    for key, value in only.items():
        if given.get(key, value) != value:
            raise UserError(f"{name} with {key} = {given[key]!r} is not supported (only {value!r}).")


def _known(cls: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    fields = {f.name for f in dataclasses.fields(cls)}
    return {k: v for k, v in given.items() if k in fields}


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
