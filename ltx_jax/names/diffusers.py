"""The diffusers spellings of module names (spec transformer.md section 16.1), read in LoRA files."""

# Whole path components of the transformer: diffusers -> official.
TRANSFORMER = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}
# The same of the connectors, below the prefix `connectors.`.
CONNECTORS = {
    "video_connector": "video_embeddings_connector",
    "audio_connector": "audio_embeddings_connector",
    "transformer_blocks": "transformer_1d_blocks",
    "text_proj_in": "text_embedding_projection.aggregate_embed",
    "video_text_proj_in": "text_embedding_projection.video_aggregate_embed",
    "audio_text_proj_in": "text_embedding_projection.audio_aggregate_embed",
}


def official_module(module: str) -> str:
    """The official name of a module that is spelled either way, without any prefix."""
    first, dot, rest = module.partition(".")
    table, module = (CONNECTORS, rest) if dot and first == "connectors" else (TRANSFORMER, module)
    return ".".join(table.get(part, part) for part in module.split("."))


def diffusers_module(module: str) -> str:
    """The name that diffusers gives to a module of this official name; the inverse of `official_module`."""
    connectors = "_connector." in module or module.startswith("text_embedding_projection.")
    spelled = f".{module}."
    for theirs, ours in (CONNECTORS if connectors else TRANSFORMER).items():
        spelled = spelled.replace(f".{ours}.", f".{theirs}.")
    return spelled.strip(".") if not connectors else "connectors" + spelled.rstrip(".")
