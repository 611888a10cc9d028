"""Configuration of the transformer, under the names of the official metadata (spec transformer.md section 1)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from ltx_jax.config import from_mapping, to_mapping
from ltx_jax.errors import UserError, require

ModelType = Literal["av", "video", "audio"]
Modality = Literal["video", "audio"]

# Keys of the metadata that no release varies: the network is written for exactly these values.
INERT = {
    "dropout": 0.0, "attention_bias": True, "num_vector_embeds": None, "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000, "use_linear_projection": False, "only_cross_attention": False,
    "cross_attention_norm": True, "double_self_attention": False, "upcast_attention": False,
    "standardization_norm": "rms_norm", "norm_elementwise_affine": False, "qk_norm": "rms_norm",
    "positional_embedding_type": "rope", "use_audio_video_cross_attention": True, "share_ff": False,
    "av_cross_ada_norm": True,
}  # fmt: skip
AV_ONLY = frozenset({"use_audio_video_cross_attention", "share_ff", "av_cross_ada_norm"})
# With all four present and equal to these the caption projections lie in the feature extractor (2.3 on).
EXTRACTOR_PROJECTION = {
    "caption_proj_before_connector": True, "caption_projection_first_linear": False,
    "caption_projection_second_linear": False, "caption_proj_input_norm": False,
}  # fmt: skip
# Read elsewhere (the connectors' part, the maker of positions) or nowhere.
UNREAD = frozenset({
    "_class_name", "norm_num_groups", "attention_type", "causal_temporal_positioning", "use_embeddings_connector",
    "text_encoder_norm_type",
})  # fmt: skip
CONNECTOR_PREFIXES = ("connector_", "audio_connector_")


@dataclasses.dataclass(frozen=True)
class StreamSizes:
    """What one modality's layers are made of. tokens: logical name of its token axis (see parallel/rules.py)."""

    width: int
    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    ff_bias: bool
    max_pos: tuple[float, ...]
    tokens: str


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """The transformer. Defaults are what the reference assumes where a file says nothing.

    model_type is ours: which streams the model has. caption_channels: width of the text context where this model
    projects captions itself (2.0; that is, where caption_proj_before_connector is false).
    """

    model_type: ModelType = "av"
    num_layers: int = 48
    num_attention_heads: int = 32
    attention_head_dim: int = 128
    in_channels: int = 128
    out_channels: int = 128
    cross_attention_dim: int = 4096
    audio_num_attention_heads: int = 32
    audio_attention_head_dim: int = 64
    audio_in_channels: int = 128
    audio_out_channels: int = 128
    audio_cross_attention_dim: int = 2048
    caption_channels: int | None = None
    caption_proj_before_connector: bool = False
    norm_eps: float = 1e-6
    positional_embedding_theta: float = 10000.0
    positional_embedding_max_pos: tuple[float, float, float] = (20.0, 2048.0, 2048.0)
    audio_positional_embedding_max_pos: tuple[float] = (20.0,)
    rope_type: Literal["split", "interleaved"] = "split"
    frequencies_precision: Literal["float32", "float64"] = "float32"
    use_middle_indices_grid: bool = True
    timestep_scale_multiplier: float = 1000.0
    av_ca_timestep_scale_multiplier: float = 1.0
    apply_gated_attention: bool = False
    cross_attention_adaln: bool = False
    use_prompt_adaln_single: bool = True
    ff_bias: bool = True
    audio_ff_bias: bool = True
    use_keyframes_abs_pos_embedding: bool = False

    def __post_init__(self):
        require(self.num_layers >= 1, f"num_layers must be at least 1, not {self.num_layers}.")
        require(self.norm_eps > 0, f"norm_eps must be positive, not {self.norm_eps}.")
        require(
            math.isfinite(self.positional_embedding_theta) and self.positional_embedding_theta > 1,
            f"positional_embedding_theta must be above 1, not {self.positional_embedding_theta}.",
        )
        require(
            self.caption_proj_before_connector or (self.caption_channels or 0) > 0,
            "caption_channels is missing: the transformer projects captions itself unless "
            "caption_proj_before_connector is true.",
        )
        for modality in self.modalities:
            self._check_stream(modality)
        if self.model_type == "av":
            require(
                self.num_attention_heads == self.audio_num_attention_heads,
                f"num_attention_heads ({self.num_attention_heads}) and audio_num_attention_heads "
                f"({self.audio_num_attention_heads}) must be equal: the two streams attend to each other.",
            )
            require(self.use_middle_indices_grid, "use_middle_indices_grid must be true in a model of video and audio.")

    def _check_stream(self, modality: Modality) -> None:
        audio = "audio_" if modality == "audio" else ""
        sizes = self.stream(modality)
        counts = (sizes.heads, sizes.head_dim, sizes.in_channels, sizes.out_channels)
        require(
            min(counts) >= 1, f"Heads, head width and channels of the {modality} stream must be positive: {counts}."
        )
        require(
            sizes.head_dim % 2 == 0,
            f"{audio}attention_head_dim must be even for the rotary embedding, not {sizes.head_dim}.",
        )
        context = self.audio_cross_attention_dim if audio else self.cross_attention_dim
        require(
            context == sizes.width,
            f"{audio}cross_attention_dim is {context} but must equal the {modality} width, {audio}num_attention_heads "
            f"* {audio}attention_head_dim = {sizes.width}.",
        )
        require(
            sizes.width >= 2 * len(sizes.max_pos) and min(sizes.max_pos) > 0,
            f"The {modality} width {sizes.width} needs two channels per position axis and positive "
            f"{audio}positional_embedding_max_pos, not {sizes.max_pos}.",
        )

    @property
    def video_width(self) -> int:
        """Dv."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def audio_width(self) -> int:
        """Da."""
        return self.audio_num_attention_heads * self.audio_attention_head_dim

    @property
    def modulation_rows(self) -> int:
        """Rows of a block's main modulation table: shift, scale, gate of attention, feed-forward (and text query)."""
        return 9 if self.cross_attention_adaln else 6

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The streams that the model has."""
        return ("video", "audio") if self.model_type == "av" else (self.model_type,)

    @property
    def prompt_modulation(self) -> bool:
        """Whether the text context is modulated by the noise level (and not by a static table alone)."""
        return self.cross_attention_adaln and self.use_prompt_adaln_single

    def stream(self, modality: Modality) -> StreamSizes:
        """Sizes of one stream."""
        if modality == "audio":
            return StreamSizes(
                self.audio_width, self.audio_num_attention_heads, self.audio_attention_head_dim,
                self.audio_in_channels, self.audio_out_channels, self.audio_ff_bias,
                self.audio_positional_embedding_max_pos, "tokens_replicated",
            )  # fmt: skip
        return StreamSizes(
            self.video_width, self.num_attention_heads, self.attention_head_dim, self.in_channels, self.out_channels,
            self.ff_bias, self.positional_embedding_max_pos, "tokens",
        )  # fmt: skip

    @classmethod
    def from_official(cls, mapping: Mapping[str, Any], model_type: ModelType = "av") -> "DiTConfig":
        """From `config.transformer` of a file's metadata.

        Raises UserError on an unknown key, on a key whose value this network is not written for, and on caption
        projection keys that are neither of the two known sets.
        """
        where = "config.transformer"
        for key, value in INERT.items():
            skipped = key in AV_ONLY and model_type != "av"
            require(
                skipped or key not in mapping or mapping[key] == value,
                f"'{where}.{key}' is {mapping.get(key)!r}, but only {value!r} is supported.",
            )
        values = {k: v for k, v in mapping.items() if k not in EXTRACTOR_PROJECTION}
        values["model_type"] = model_type
        values["caption_proj_before_connector"] = _projects_in_extractor(mapping, where)
        precise = mapping.get("frequencies_precision") == "float64"  # any other value means float32
        values["frequencies_precision"] = "float64" if precise else "float32"
        connectors = frozenset(k for k in mapping if k.startswith(CONNECTOR_PREFIXES))
        return from_mapping(cls, values, where, frozenset(INERT) | UNREAD | connectors)

    def to_official(self) -> dict[str, Any]:
        """The metadata that `from_official` reads, JSON-able; the reference's own checks accept it."""
        mapping = {**to_mapping(self), **INERT, "_class_name": "AVTransformer3DModel"}
        del mapping["model_type"], mapping["caption_proj_before_connector"]
        return {**mapping, **EXTRACTOR_PROJECTION} if self.caption_proj_before_connector else mapping


def _projects_in_extractor(mapping: Mapping[str, Any], where: str) -> bool:
    """False for a 2.0 style config (none of the keys), True for the one other known set of them."""
    given = {k: mapping[k] for k in EXTRACTOR_PROJECTION if k in mapping}
    if given and given != EXTRACTOR_PROJECTION:
        raise UserError(
            f"The caption projection keys of '{where}' must be absent or exactly {EXTRACTOR_PROJECTION}, not {given}."
        )
    return bool(given)
