"""The `config.json` of a pipeline's components as diffusers reads them (spec transformer.md 16.1).

Every key whose value differs between releases is written: what is absent means a default of diffusers there, which is
not always the official one. The autoencoders and the vocoder have their class alone.
"""

from typing import Any

from ltx_jax.models.dit.config import DiTConfig
from ltx_jax.models.text.connectors_config import TextConnectorsConfig
from ltx_jax.releases import Release

CLASSES = {
    "transformer": "LTX2VideoTransformer3DModel", "connectors": "LTX2TextConnectors", "vae": "AutoencoderKLLTX2Video",
    "audio_vae": "AutoencoderKLLTX2Audio", "vocoder": "LTX2Vocoder",
}  # fmt: skip
_SAME = (
    "num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "cross_attention_dim",
    "audio_num_attention_heads", "audio_attention_head_dim", "audio_in_channels", "audio_out_channels",
    "audio_cross_attention_dim", "caption_channels", "norm_eps", "rope_type", "timestep_scale_multiplier",
    "use_prompt_adaln_single", "ff_bias", "audio_ff_bias", "use_keyframes_abs_pos_embedding",
)  # fmt: skip


def component_config(folder: str, release: Release) -> dict[str, Any]:
    """What the `config.json` in a folder of the pipeline says, JSON-able."""
    own: dict[str, Any] = {}
    if folder == "transformer":
        own = _transformer(release.transformer)
    if folder == "connectors":
        own = _connectors(release.connectors)
    return {"_class_name": CLASSES.get(folder, folder), **own}


def _transformer(config: DiTConfig) -> dict[str, Any]:
    frames, height, width = config.positional_embedding_max_pos
    return {
        **{name: getattr(config, name) for name in _SAME},
        "gated_attn": config.apply_gated_attention,
        "audio_gated_attn": config.apply_gated_attention,
        "cross_attn_mod": config.cross_attention_adaln,
        "audio_cross_attn_mod": config.cross_attention_adaln,
        "rope_double_precision": config.frequencies_precision == "float64",
        "rope_theta": config.positional_embedding_theta,
        "pos_embed_max_pos": frames,
        "base_height": height,
        "base_width": width,
        "audio_pos_embed_max_pos": config.audio_positional_embedding_max_pos[0],
        "cross_attn_timestep_scale_multiplier": config.av_ca_timestep_scale_multiplier,
        "use_prompt_embeddings": not config.caption_proj_before_connector,
    }


def _connectors(config: TextConnectorsConfig) -> dict[str, Any]:
    v2 = config.feature_extractor == "v2"
    found: dict[str, Any] = {
        "caption_channels": config.hidden_size,
        "text_proj_in_factor": config.num_hidden_states,
        "connector_rope_base_seq_len": config.connector_positional_embedding_max_pos[0],
        "rope_theta": config.positional_embedding_theta,
        "rope_double_precision": config.frequencies_precision == "float64",
        "rope_type": config.rope_type,
        "per_modality_projections": v2,
        "proj_bias": v2,
    }
    for stream, connector in (("video", config.video), ("audio", config.audio)):
        found |= {
            f"{stream}_connector_num_attention_heads": connector.heads,
            f"{stream}_connector_attention_head_dim": connector.head_dim,
            f"{stream}_connector_num_layers": connector.layers,
            f"{stream}_connector_num_learnable_registers": connector.registers,
            f"{stream}_gated_attn": connector.gated,
            f"{stream}_hidden_dim": connector.width,
        }
    return found
