"""How long a clip of a prompt should be: a small head on the connectors' outputs (spec transformer.md section 13)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ltx_jax.config import from_mapping
from ltx_jax.errors import UserError, require
from ltx_jax.kernels.attention import attention
from ltx_jax.models.layers import Array, Dtype, Linear, gelu, partitioned

WIDTHS = {"video_width": "cross_attention_dim", "audio_width": "audio_cross_attention_dim"}  # ours -> official


@dataclasses.dataclass(frozen=True)
class DurationConfig:
    """Sizes of the head; the defaults are those of every release. video_width, audio_width: of the text contexts."""

    video_width: int = 4096
    audio_width: int = 2048
    pooler_hidden_dim: int = 256
    num_queries: int = 1
    num_pooler_heads: int = 4
    mlp_hidden: int = 256

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            require(value > 0, f"The duration head's {name} must be positive, not {value}.")
        require(
            self.pooler_hidden_dim % self.num_pooler_heads == 0,
            f"The duration head's width {self.pooler_hidden_dim} is no multiple of its {self.num_pooler_heads} heads.",
        )

    @classmethod
    def from_official(cls, blocks: Mapping[str, Any]) -> "DurationConfig":
        """From metadata `config`: the widths of its block `transformer`, and `duration_head`, which may be absent."""
        transformer = blocks.get("transformer") or {}
        widths = {ours: transformer[official] for ours, official in WIDTHS.items() if official in transformer}
        return from_mapping(cls, {**widths, **(blocks.get("duration_head") or {})}, "duration_head")

    def to_official(self) -> dict[str, Any]:
        """The blocks that `from_official` reads back to an equal config."""
        own = dataclasses.asdict(self)
        return {"transformer": {official: own.pop(ours) for ours, official in WIDTHS.items()}, "duration_head": own}


class DurationHead(nn.Module):
    """Learned queries attend to the text of both streams; an MLP makes of them the logarithm of the seconds."""

    config: DurationConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, video: Array | None, audio: Array | None) -> Array:
        """Text contexts (B, S, E) of the streams, of which one may be None -> seconds (B,) float32."""
        c = self.config
        given = [self._entry(name, x) for name, x in (("video", video), ("audio", audio)) if x is not None]
        if not given:
            raise UserError("The duration head needs the text of one stream at least.")
        tokens = jnp.concatenate(given, axis=1)  # (B, S + S', P)
        queries = self._vector("query_tokens", c.num_queries, c.pooler_hidden_dim).astype(self.dtype)
        heads = lambda x: x.reshape(*x.shape[:2], c.num_pooler_heads, -1)  # (B, S, N, K)
        project = self._linear("in_proj", 3 * c.pooler_hidden_dim)
        _, k, v = jnp.split(project(tokens), 3, axis=-1)
        q = jnp.split(project(queries[None]), 3, axis=-1)[0]  # (1, Q, P)
        q = jnp.broadcast_to(q, (tokens.shape[0], *q.shape[1:]))
        pooled = attention(heads(q), heads(k), heads(v))  # (B, Q, N, K)
        pooled = self._linear("out_proj", c.pooler_hidden_dim)(pooled.reshape(*q.shape))
        hidden = gelu(self._linear("mlp_hidden", c.mlp_hidden)(pooled.reshape(tokens.shape[0], -1)))
        return jnp.exp(self._linear("mlp_out", 1)(hidden).astype(jnp.float32))[:, 0]

    def _entry(self, stream: str, context: Array) -> Array:
        width = self.config.pooler_hidden_dim
        own = self._vector(f"{stream}_modality_emb", width).astype(self.dtype)
        return self._linear(f"{stream}_input_proj", width)(context) + own

    def _linear(self, name: str, features: int) -> Linear:
        return Linear(features, (None, None), True, self.dtype, self.param_dtype, name=name)

    def _vector(self, name: str, *shape: int) -> Array:
        init = partitioned(nn.initializers.normal(0.02), *(None,) * len(shape))
        return self.param(name, init, shape, self.param_dtype)


def duration_frames(seconds: float, fps: float, shortest: float = 1.0, longest: float = 20.0, factor: int = 8) -> int:
    """Frames of a clip of about `seconds`, held within [shortest, longest] seconds (spec sampling.md section 10).

    1 + k * factor of them, rounded down; upwards where that were too short, and then not on the grid where the upper
    bound forbids it.
    """
    low, high = round(shortest * fps), round(longest * fps)
    frames = min(max(round(seconds * fps), low), high)
    frames = (frames - 1) // factor * factor + 1
    return frames if frames >= low else min(math.ceil((low - 1) / factor) * factor + 1, high)
