"""Configuration of the feature extractor and the text connectors, under the official metadata keys."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ltx_jax.config import from_mapping
from ltx_jax.errors import UserError, require

# All four present with these values: extractor V2. None present: V1 (spec transformer.md section 1).
_V2_KEYS = {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_projection_second_linear": False,
    "caption_proj_input_norm": False,
}


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """One stream's connector. max_pos: token positions that span the rotary range, one entry."""

    heads: int
    head_dim: int
    layers: int
    registers: int
    max_pos: tuple[float, ...]
    theta: float
    rope_type: str
    precision: str
    gated: bool
    ff_bias: bool

    @property
    def width(self) -> int:
        """E, the width of features, registers and output."""
        return self.heads * self.head_dim


@dataclasses.dataclass(frozen=True)
class TextConnectorsConfig:
    """Feature extractor and both connectors (spec transformer.md sections 1 and 12).

    Defaults are what the reference assumes where a file says nothing. audio_connector_*: None takes the video
    connector's value. hidden_size, num_hidden_states: H and G of the text model's stacked hidden states.
    """

    feature_extractor: Literal["v1", "v2"] = "v1"
    num_hidden_states: int = 49
    hidden_size: int = 3840
    connector_num_attention_heads: int = 30
    connector_attention_head_dim: int = 128
    connector_num_layers: int = 2
    audio_connector_num_attention_heads: int | None = None
    audio_connector_attention_head_dim: int | None = None
    audio_connector_num_layers: int | None = None
    connector_positional_embedding_max_pos: tuple[float, ...] = (1.0,)
    connector_num_learnable_registers: int = 128
    connector_apply_gated_attention: bool = False
    connector_ff_bias: bool = True
    positional_embedding_theta: float = 10000.0
    rope_type: Literal["split", "interleaved"] = "split"
    frequencies_precision: str = "float32"

    def __post_init__(self):
        require(
            len(self.connector_positional_embedding_max_pos) == 1,
            "connector_positional_embedding_max_pos must have one entry: text has one position axis.",
        )
        require(self.connector_num_learnable_registers >= 0, "connector_num_learnable_registers must not be negative.")
        require(self.num_hidden_states > 0 and self.hidden_size > 0, "The text model must have hidden states.")
        for stream, c in (("video", self.video), ("audio", self.audio)):
            require(
                min(c.heads, c.head_dim, c.layers) > 0 and c.head_dim % 2 == 0,
                f"The {stream} connector needs layers, heads and an even head width, "
                f"not {c.layers} layers of {c.heads} x {c.head_dim}.",
            )
        require(
            self.feature_extractor == "v2" or self.video.width == self.audio.width,
            f"Feature extractor V1 feeds both connectors, but their widths are {self.video.width} and "
            f"{self.audio.width}; make them equal.",
        )

    @property
    def video(self) -> ConnectorConfig:
        """The video stream's connector."""
        return self._connector(
            self.connector_num_attention_heads, self.connector_attention_head_dim, self.connector_num_layers
        )

    @property
    def audio(self) -> ConnectorConfig:
        """The audio stream's connector."""
        own = lambda value, video: video if value is None else value
        return self._connector(
            own(self.audio_connector_num_attention_heads, self.connector_num_attention_heads),
            own(self.audio_connector_attention_head_dim, self.connector_attention_head_dim),
            own(self.audio_connector_num_layers, self.connector_num_layers),
        )

    def _connector(self, heads: int, head_dim: int, layers: int) -> ConnectorConfig:
        return ConnectorConfig(
            heads=heads,
            head_dim=head_dim,
            layers=layers,
            registers=self.connector_num_learnable_registers,
            max_pos=self.connector_positional_embedding_max_pos,
            theta=self.positional_embedding_theta,
            rope_type=self.rope_type,
            precision="float64" if self.frequencies_precision == "float64" else "float32",
            gated=self.connector_apply_gated_attention,
            ff_bias=self.connector_ff_bias,
        )

    @classmethod
    def from_official(
        cls, transformer: Mapping[str, Any], num_hidden_states: int = 49, hidden_size: int | None = None
    ) -> "TextConnectorsConfig":
        """From the metadata's `config.transformer`, whose other keys are ignored.

        num_hidden_states: layers of the text model + 1. hidden_size: its width; None takes `caption_channels`, or the
        releases' 3840. Raises UserError when the caption projection keys fit neither feature extractor.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"feature_extractor", "num_hidden_states", "hidden_size"}
        values = {k: v for k, v in transformer.items() if k in known and v is not None}
        if hidden_size is None:
            hidden_size = transformer.get("caption_channels") or cls.hidden_size
        values |= {"num_hidden_states": num_hidden_states, "hidden_size": hidden_size}
        values["feature_extractor"] = _feature_extractor(transformer)
        return from_mapping(cls, values, "transformer")

    def to_official(self) -> dict[str, Any]:
        """The mapping that `from_official` (given the same num_hidden_states) reads back to an equal config."""
        fields = dataclasses.asdict(self)
        version, _ = fields.pop("feature_extractor"), fields.pop("num_hidden_states")
        fields["caption_channels"] = fields.pop("hidden_size")
        max_pos = list(self.connector_positional_embedding_max_pos)
        fields["connector_positional_embedding_max_pos"] = max_pos
        written = {k: v for k, v in fields.items() if v is not None}
        return written | (_V2_KEYS if version == "v2" else {})


def _feature_extractor(transformer: Mapping[str, Any]) -> str:
    given = {k: transformer[k] for k in _V2_KEYS if k in transformer}
    if not given:
        return "v1"
    if given == _V2_KEYS:
        return "v2"
    described = ", ".join(f"{k}={given.get(k, 'absent')}" for k in _V2_KEYS)
    raise UserError(f"The transformer's caption projection keys fit no known feature extractor: {described}.")
