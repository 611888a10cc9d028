"""Keys and values of the text, once for all noise levels: in checkpoints whose levels do not modulate the text."""

from typing import Any

import jax

from ltx_jax.models.dit.block import modulate_text
from ltx_jax.models.dit.config import DiTConfig, Modality
from ltx_jax.models.dit.transformer import CaptionProjection
from ltx_jax.models.layers import Array, Dtype, Linear
from ltx_jax.models.storage import in_host_memory, on_device
from ltx_jax.parallel.rules import constrain


def remember_text(config: DiTConfig, modality: Modality, params: Any, tokens: Array, dtype: Dtype) -> Any:
    """Keys and values (L, B, S, D) each, of every block's text attention for text (B, S, E), before the keys' norm.

    The same numbers as the blocks would make in every step; params: of the whole transformer. Only where
    `config.prompt_modulation` is off (release 2.0).
    """
    assert not config.prompt_modulation, "the noise level modulates this text"
    sizes = config.stream(modality)
    if not config.caption_proj_before_connector:
        project = {"params": params[f"{modality}_entry"]["caption_projection"]}
        tokens = CaptionProjection(sizes.width, dtype, dtype).apply(project, tokens)  # type: ignore[assignment]
    text = constrain(tokens.astype(dtype), "batch", "tokens_replicated", "act_embed")
    inner = sizes.heads * sizes.head_dim

    def of_block(layer: Any) -> tuple[Array, Array]:
        layer = on_device(layer) if in_host_memory(layer) else layer
        own = modulate_text(text, layer["prompt_scale_shift_table"], None) if config.cross_attention_adaln else text
        linear = lambda name: Linear(inner, ("embed", "heads"), True, dtype, dtype).apply(
            {"params": layer["attn2"][name]}, own
        )
        held = lambda x: constrain(x, "batch", "tokens_replicated", "act_heads")
        return held(linear("to_k")), held(linear("to_v"))

    return jax.lax.map(of_block, params["blocks"][modality])
