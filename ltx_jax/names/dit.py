"""Official names of the transformer (spec transformer.md section 2.2), without the prefix `model.diffusion_model.`."""

from ltx_jax.models.dit.config import DiTConfig, Modality
from ltx_jax.names import Name, linear

Path = tuple[str, ...]

TRANSFORMER_PREFIX = "model.diffusion_model."


def attention_names(official: str, path: Path, gated: bool, layers: int | None = None) -> list[Name]:
    """Names of an `Attention`: `official` is its official name, `path` its place in our tree."""
    names = [
        Name(f"{official}.q_norm.weight", (*path, "q_norm"), None, layers),
        Name(f"{official}.k_norm.weight", (*path, "k_norm"), None, layers),
        *linear(f"{official}.to_out.0", (*path, "to_out"), True, layers),
    ]
    for part in ("to_q", "to_k", "to_v", *["to_gate_logits"] * gated):
        names += linear(f"{official}.{part}", (*path, part), True, layers)
    return names


def feed_forward_names(official: str, path: Path, bias: bool, layers: int | None = None) -> list[Name]:
    """Names of a `FeedForward`: `official` is its official name, `path` its place in our tree."""
    return [
        *linear(f"{official}.net.0.proj", (*path, "proj"), bias, layers),
        *linear(f"{official}.net.2", (*path, "out"), bias, layers),
    ]


def dit_names(config: DiTConfig) -> list[Name]:
    """Names of the whole transformer that `config` describes."""
    names = [name for modality in config.modalities for name in _stream_names(config, modality)]
    if config.model_type == "av":
        block, layers = "transformer_blocks.{i}", config.num_layers
        for ours, official in (("audio_to_video", "audio_to_video_attn"), ("video_to_audio", "video_to_audio_attn")):
            path = ("blocks", "cross", ours)
            names += attention_names(f"{block}.{official}", path, config.apply_gated_attention, layers)
        for m in config.modalities:
            table = f"{block}.scale_shift_table_a2v_ca_{m}"
            names.append(Name(table, ("blocks", "cross", f"{m}_table"), None, layers))
    return names


def _stream_names(config: DiTConfig, modality: Modality) -> list[Name]:
    """Names of one stream: its way in, its way out, and its own layers of the blocks."""
    audio = "audio_" if modality == "audio" else ""
    entry, leave = f"{modality}_entry", f"{modality}_exit"
    names = [
        *linear(f"{audio}patchify_proj", (entry, "patchify_proj")),
        *_adaln_names(f"{audio}adaln_single", (entry, "adaln_single")),
        Name(f"{audio}scale_shift_table", (leave, "scale_shift_table")),
        *linear(f"{audio}proj_out", (leave, "proj_out")),
    ]
    if config.prompt_modulation:
        names += _adaln_names(f"{audio}prompt_adaln_single", (entry, "prompt_adaln_single"))
    if not config.caption_proj_before_connector:
        for part in ("linear_1", "linear_2"):
            names += linear(f"{audio}caption_projection.{part}", (entry, "caption_projection", part))
    if modality == "video" and config.use_keyframes_abs_pos_embedding:
        names.append(Name("keyframes_abs_pos_embedding", (entry, "keyframes_abs_pos_embedding"), optional=True))
    if config.model_type == "av":
        gate = "a2v" if modality == "video" else "v2a"  # of what this stream receives
        scale_shift = f"av_ca_{modality}_scale_shift_adaln_single"
        names += _adaln_names(scale_shift, (entry, "av_ca_scale_shift_adaln_single"))
        names += _adaln_names(f"av_ca_{gate}_gate_adaln_single", (entry, "av_ca_gate_adaln_single"))
    return names + _block_names(config, modality, f"transformer_blocks.{{i}}.{audio}", ("blocks", modality))


def _block_names(config: DiTConfig, modality: Modality, official: str, path: Path) -> list[Name]:
    layers, gated = config.num_layers, config.apply_gated_attention
    tables = ["scale_shift_table", *["prompt_scale_shift_table"] * config.cross_attention_adaln]
    return [
        *(Name(f"{official}{table}", (*path, table), None, layers) for table in tables),
        *attention_names(f"{official}attn1", (*path, "attn1"), gated, layers),
        *attention_names(f"{official}attn2", (*path, "attn2"), gated, layers),
        *feed_forward_names(f"{official}ff", (*path, "ff"), config.stream(modality).ff_bias, layers),
    ]


def _adaln_names(official: str, path: Path) -> list[Name]:
    return [
        *linear(f"{official}.emb.timestep_embedder.linear_1", (*path, "linear_1")),
        *linear(f"{official}.emb.timestep_embedder.linear_2", (*path, "linear_2")),
        *linear(f"{official}.linear", (*path, "linear")),
    ]
