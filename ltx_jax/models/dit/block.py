"""One block: each stream attends to itself and to its text, then the streams to each other, then feed-forwards.

Spec transformer.md section 7. A stream's modulation stays per noise level, (B, U, M, D), until a row of it is used.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from ltx_jax.kernels.prologue import Tables
from ltx_jax.kernels.spec import Mask
from ltx_jax.models.dit.adaln import add_gated, modulate, normed, per_token
from ltx_jax.models.dit.attention import Attention, FeedForward
from ltx_jax.models.dit.config import DiTConfig, Modality
from ltx_jax.models.layers import Array, Dtype, partitioned, rms_norm
from ltx_jax.parallel.rules import constrain

KEEP_VIDEO_SELF, KEEP_AUDIO_SELF, KEEP_TO_VIDEO, KEEP_TO_AUDIO = range(4)  # rows of `keep`, spec section 9
TO_VIDEO, TO_AUDIO, GATE = 0, 2, 4  # rows of the cross tables: scale and shift of either direction, then the gate


@struct.dataclass
class StreamInputs:
    """What every block needs of one stream beside its tokens; the same in all blocks.

    modulation: (B, U, M, D) float32 rows of the distinct levels; level_index: (B, T) int32, or None when U == 1.
    context: (B, S, D) text. text_mask, mask, key_mask: of the text attention, of the self-attention, and of this
    stream as keys of the other one. rope: tables of the self-attention. prompt_modulation: (B, 2, D) or None.
    cross_modulation (B, U, 4, D), cross_gate (B, D), cross_rope: of the audio-video attention; None with one stream.
    """

    modulation: Array
    level_index: Array | None
    context: Array
    rope: Tables
    mask: Mask = Mask()
    text_mask: Mask = Mask()
    key_mask: Mask = Mask()
    prompt_modulation: Array | None = None
    cross_modulation: Array | None = None
    cross_gate: Array | None = None
    cross_rope: Tables | None = None


def table_init(key: Array, shape: tuple[int, int], dtype: Dtype) -> Array:
    """Modulation tables (rows, D): normal / sqrt(D)."""
    return jax.random.normal(key, shape, dtype) / shape[-1] ** 0.5


class StreamLayers(nn.Module):
    """One stream's own layers in a block; `attend` and `feed` are its two turns."""

    config: DiTConfig
    modality: Modality
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def setup(self):
        config, sizes = self.config, self.config.stream(self.modality)
        table = lambda name, rows: self.param(
            name, partitioned(table_init, "rows", None), (rows, sizes.width), self.param_dtype
        )
        self.scale_shift_table = table("scale_shift_table", config.modulation_rows)
        if config.cross_attention_adaln:
            self.prompt_scale_shift_table = table("prompt_scale_shift_table", 2)
        attention = lambda: Attention(
            sizes.width, sizes.width, sizes.heads, sizes.head_dim, config.norm_eps, config.apply_gated_attention,
            config.rope_type, self.dtype, self.param_dtype, tokens=sizes.tokens,
        )  # fmt: skip
        self.attn1, self.attn2 = attention(), attention()
        self.ff = FeedForward(sizes.width, sizes.ff_bias, self.dtype, self.param_dtype, tokens=sizes.tokens)

    def _row(self, inputs: StreamInputs, row: int) -> Array:
        """Row of table + modulation for every token, (B, T or 1, D) float32."""
        rows = inputs.modulation[:, :, row] + self.scale_shift_table[row].astype(jnp.float32)  # (B, U, D)
        return per_token(rows, inputs.level_index)

    def attend(self, x: Array, inputs: StreamInputs, keep: Array | None) -> Array:
        """Self-attention, then text attention: (B, T, D) -> (B, T, D). keep: (B,), 0 skips the self-attention."""
        eps = self.config.norm_eps
        shift, scale, gate = (self._row(inputs, r) for r in (0, 1, 2))
        keep = None if keep is None else keep[:, None, None]
        out = self.attn1(normed(x, scale, shift, eps), mask=inputs.mask, rope_q=inputs.rope, keep=keep)
        x = add_gated(x, out, gate)
        n = rms_norm(x, eps=eps)
        if not self.config.cross_attention_adaln:
            return add_gated(x, self.attn2(n, inputs.context, inputs.text_mask), jnp.float32(1))
        shift, scale, gate = (self._row(inputs, r) for r in (6, 7, 8))
        out = self.attn2(modulate(n, scale, shift), self._modulated_context(inputs), inputs.text_mask)
        return add_gated(x, out, gate)

    def _modulated_context(self, inputs: StreamInputs) -> Array:
        rows = self.prompt_scale_shift_table.astype(jnp.float32)[None]  # (1, 2, D)
        if inputs.prompt_modulation is not None:
            rows = rows + inputs.prompt_modulation  # (B, 2, D)
        return modulate(inputs.context, scale=rows[:, 1:2], shift=rows[:, 0:1])

    def feed(self, x: Array, inputs: StreamInputs) -> Array:
        """Feed-forward: (B, T, D) -> (B, T, D)."""
        shift, scale, gate = (self._row(inputs, r) for r in (3, 4, 5))
        return add_gated(x, self.ff(normed(x, scale, shift, self.config.norm_eps)), gate)


class CrossLayers(nn.Module):
    """The audio-video attention of a block: both directions read the tokens as they were before either was added."""

    config: DiTConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def setup(self):
        config, video, audio = self.config, self.config.stream("video"), self.config.stream("audio")
        table = lambda name, width: self.param(
            name, partitioned(table_init, "rows", None), (5, width), self.param_dtype
        )
        self.video_table, self.audio_table = table("video_table", video.width), table("audio_table", audio.width)
        attention = lambda to, of: Attention(  # both of the audio stream's inner width
            to.width, of.width, audio.heads, audio.head_dim, config.norm_eps, config.apply_gated_attention,
            config.rope_type, self.dtype, self.param_dtype, tokens=to.tokens, context_tokens=of.tokens,
        )  # fmt: skip
        self.audio_to_video, self.video_to_audio = attention(video, audio), attention(audio, video)

    def to_video(self, v: Array, a: Array, video: StreamInputs, audio: StreamInputs, keep: Array | None) -> Array:
        """What the video stream (B, T, Dv) adds, given the audio stream (B, A, Da). keep: (B,), 0 skips."""
        q = self._normed(v, self.video_table, video, TO_VIDEO)
        kv = self._normed(a, self.audio_table, audio, TO_VIDEO)
        out = self.audio_to_video(q, kv, audio.key_mask, video.cross_rope, audio.cross_rope)
        return self._gated(out, self.video_table, video, keep)

    def to_audio(self, v: Array, a: Array, video: StreamInputs, audio: StreamInputs, keep: Array | None) -> Array:
        """What the audio stream (B, A, Da) adds, given the video stream (B, T, Dv). keep: (B,), 0 skips."""
        q = self._normed(a, self.audio_table, audio, TO_AUDIO)
        kv = self._normed(v, self.video_table, video, TO_AUDIO)
        out = self.video_to_audio(q, kv, video.key_mask, audio.cross_rope, video.cross_rope)
        return self._gated(out, self.audio_table, audio, keep)

    def _normed(self, x: Array, table: Array, inputs: StreamInputs, first: int) -> Array:
        """Modulated tokens; scale stands before shift in these tables, unlike in all others."""
        assert inputs.cross_modulation is not None
        rows = inputs.cross_modulation[:, :, first : first + 2] + table[first : first + 2].astype(jnp.float32)
        scale, shift = (per_token(rows[:, :, r], inputs.level_index) for r in (0, 1))
        return normed(x, scale, shift, self.config.norm_eps)

    def _gated(self, out: Array, table: Array, inputs: StreamInputs, keep: Array | None) -> Array:
        assert inputs.cross_gate is not None
        gate = (table[GATE].astype(jnp.float32) + inputs.cross_gate)[:, None]  # (B, 1, D)
        gate = gate if keep is None else gate * keep[:, None, None]
        return out.astype(jnp.float32) * gate


class Block(nn.Module):
    """One block of the stack; its carry and arguments have the form that `nn.scan` wants.

    runs: the streams whose layers run; one that is given but does not run only serves the other as keys and values.
    """

    config: DiTConfig
    runs: tuple[Modality, ...]
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: dict[Modality, Array],
        inputs: dict[Modality, StreamInputs],
        keep: Array | None = None,
    ) -> tuple[dict[Modality, Array], None]:
        """tokens: (B, T, D) of the streams that are present. keep: (4, B), rows as named above, or None for all.

        Returns the new tokens, and None in the place of what a scan would collect.
        """
        row = lambda r: None if keep is None else keep[r]
        own: dict[Modality, StreamLayers] = {
            m: StreamLayers(self.config, m, self.dtype, self.param_dtype, name=m) for m in self.runs
        }
        x: dict[Modality, Array] = {m: checkpoint_name(t, "block_input") for m, t in tokens.items()}
        for modality, layers in own.items():
            kept = row(KEEP_VIDEO_SELF if modality == "video" else KEEP_AUDIO_SELF)
            x[modality] = layers.attend(x[modality], inputs[modality], kept)
        if len(x) == 2:
            cross = CrossLayers(self.config, self.dtype, self.param_dtype, name="cross")
            before = (x["video"], x["audio"], inputs["video"], inputs["audio"])
            if "video" in own:
                x["video"] = add_gated(x["video"], cross.to_video(*before, row(KEEP_TO_VIDEO)), jnp.float32(1))
            if "audio" in own:
                x["audio"] = add_gated(x["audio"], cross.to_audio(*before, row(KEEP_TO_AUDIO)), jnp.float32(1))
        for modality, layers in own.items():
            fed = layers.feed(x[modality], inputs[modality])
            x[modality] = constrain(fed, "batch", self.config.stream(modality).tokens, "act_embed")
        return x, None
