"""The PyTorch implementation of diffusers as a rival of `dit_step.py`, on the same weights and inputs.

Needs the extra `parity`. Names and settings: spec transformer.md section 16.1.
"""

from typing import Any

import numpy as np
import torch
from diffusers import LTX2VideoTransformer3DModel

from ltx_jax.names import to_official
from ltx_jax.names.diffusers import TRANSFORMER
from ltx_jax.names.dit import dit_names

SPELLINGS = {official: theirs for theirs, official in TRANSFORMER.items()} | {
    "scale_shift_table_a2v_ca_video": "video_a2v_cross_attn_scale_shift_table",
    "scale_shift_table_a2v_ca_audio": "audio_a2v_cross_attn_scale_shift_table",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}


def _settings(config: Any) -> dict[str, Any]:
    """diffusers' constructor arguments for our configuration."""
    frames, height, width = config.positional_embedding_max_pos
    return {
        "in_channels": config.in_channels, "out_channels": config.out_channels, "num_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads, "attention_head_dim": config.attention_head_dim,
        "cross_attention_dim": config.cross_attention_dim, "pos_embed_max_pos": frames, "base_height": height,
        "base_width": width, "gated_attn": config.apply_gated_attention, "cross_attn_mod": config.cross_attention_adaln,
        "audio_in_channels": config.audio_in_channels, "audio_out_channels": config.audio_out_channels,
        "audio_num_attention_heads": config.audio_num_attention_heads,
        "audio_attention_head_dim": config.audio_attention_head_dim,
        "audio_cross_attention_dim": config.audio_cross_attention_dim,
        "audio_pos_embed_max_pos": config.audio_positional_embedding_max_pos[0],
        "audio_gated_attn": config.apply_gated_attention, "audio_cross_attn_mod": config.cross_attention_adaln,
        "caption_channels": config.caption_channels, "norm_eps": config.norm_eps,
        "rope_theta": config.positional_embedding_theta, "rope_type": config.rope_type,
        "rope_double_precision": config.frequencies_precision == "float64",
        "timestep_scale_multiplier": config.timestep_scale_multiplier,
        "cross_attn_timestep_scale_multiplier": config.av_ca_timestep_scale_multiplier,
        "use_prompt_embeddings": not config.caption_proj_before_connector, "ff_bias": config.ff_bias,
        "use_keyframes_abs_pos_embedding": config.use_keyframes_abs_pos_embedding,
    }  # fmt: skip


class Rival:
    """PyTorch eager, as diffusers runs it. params: ours, host arrays; arrays: those of the case."""

    def __init__(self, case: Any, params: Any, arrays: dict[str, np.ndarray]):
        dtype = getattr(torch, case.dtype)
        with torch.device("meta"):
            self.model = LTX2VideoTransformer3DModel(**_settings(case.config))
        tensors = {
            ".".join(SPELLINGS.get(part, part) for part in name.split(".")): torch.from_numpy(np.array(x)).to(dtype)
            for name, x in to_official(dit_names(case.config), params).items()
        }
        self.model.load_state_dict(tensors, strict=True, assign=True)
        tensor = lambda x: torch.from_numpy(np.array(x))
        video, audio = (tensor(np.repeat(p, case.batch, axis=0)) for p in case.positions())
        sigma = tensor(arrays["sigma"]) * case.config.timestep_scale_multiplier
        self.inputs = {
            "hidden_states": tensor(arrays["video"]).to(dtype), "video_coords": video, "audio_coords": audio,
            "audio_hidden_states": tensor(arrays["audio"]).to(dtype),
            "encoder_hidden_states": tensor(arrays["video_text"]).to(dtype),
            "audio_encoder_hidden_states": tensor(arrays["audio_text"]).to(dtype),
            "timestep": sigma, "sigma": sigma, "return_dict": False,
        }  # fmt: skip

    def forward(self) -> Any:
        """Both velocities."""
        with torch.inference_mode():
            return self.model(**self.inputs)

    def gradient(self) -> None:
        """Gradients of the parameters of the velocities' sum of squares, given back like ours before the next turn."""
        sum(v.square().sum() for v in self.model(**self.inputs)).backward()  # type: ignore[union-attr]
        for parameter in self.model.parameters():
            parameter.grad = None

    def difference(self, ours: Any) -> float:
        """Largest difference of the velocities, relative to the largest velocity."""
        pairs = [(np.asarray(a, np.float32), b.float().numpy()) for a, b in zip(ours, self.forward(), strict=True)]
        return float(max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs))
