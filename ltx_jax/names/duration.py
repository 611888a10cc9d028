"""Official names of the duration head (spec transformer.md section 13), without the prefix `duration_head.`."""

from ltx_jax.models.text.duration import DurationConfig
from ltx_jax.names import Name, linear


def duration_names(config: DurationConfig) -> list[Name]:
    """Names of every parameter of `DurationHead(config)`."""
    pooler = "attention_pooler"
    names = [Name(f"{pooler}.query_tokens", ("query_tokens",))]
    for layer in ("video_input_proj", "audio_input_proj", "mlp_hidden", "mlp_out"):
        names += linear(layer, (layer,))
    names += [Name(f"{stream}_modality_emb", (f"{stream}_modality_emb",)) for stream in ("video", "audio")]
    names += linear(f"{pooler}.cross_attn.out_proj", ("out_proj",))
    return names + [
        Name(f"{pooler}.cross_attn.in_proj_weight", ("in_proj", "kernel"), (1, 0)),
        Name(f"{pooler}.cross_attn.in_proj_bias", ("in_proj", "bias")),
    ]
