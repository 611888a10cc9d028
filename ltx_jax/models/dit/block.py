"""One block of the transformer, and all that it is made of.

Each stream attends to itself and to its text, then the streams to each other, then come the feed-forwards (spec
transformer.md sections 6 and 7). The noise level steers every layer: it gives the rows (shift, scale, gate) that
modulate what a layer reads and writes. Rows stay per distinct level, (B, U, M, D), in float32 until one is used: per
token the modulation of a long video would be larger than the model. Letters beyond the usual: U distinct noise levels,
M modulation rows. The text connectors share `Attention` and `FeedForward`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.prologue import Prologue, Rotation, Tables, packed
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.models.dit.config import DiTConfig, Modality
from ltx_jax.models.layers import Array, Dtype, Linear, gelu, partitioned, rms_norm
from ltx_jax.parallel.rules import constrain
from ltx_jax.streams import TextMemory

Pair = tuple[Any, Any]  # what belongs to the video and to the audio stream
KEEP_VIDEO_SELF, KEEP_AUDIO_SELF, KEEP_TO_VIDEO, KEEP_TO_AUDIO = range(4)  # rows of `keep`, spec section 9
TO_VIDEO, TO_AUDIO, GATE = 0, 2, 4  # rows of the cross tables: scale and shift of either direction, then the gate
SELECT_LEVELS = 8  # up to so many levels are selected (elementwise, fuses), more are gathered


class StreamInputs(struct.PyTreeNode):
    """What every block needs of one stream beside its tokens; the same in all blocks.

    modulation: (B, U, M, D) float32 rows of the distinct levels; level_index: (B, T) int32, or None when U == 1.
    context: (B, S, D) text, None where its keys and values are given. text_mask, mask, key_mask: of the text attention,
    of the self-attention, and of this stream as keys of the other one. rope: tables of the self-attention.
    prompt_modulation: (B, 2, D) or None. cross_modulation (B, U, 4, D), cross_gate (B, D), cross_rope: of the
    audio-video attention; None with one stream.
    """

    modulation: Array
    level_index: Array | None
    context: Array | None
    rope: Tables
    mask: Mask = Mask()
    text_mask: Mask = Mask()
    key_mask: Mask = Mask()
    prompt_modulation: Array | None = None
    cross_modulation: Array | None = None
    cross_gate: Array | None = None
    cross_rope: Tables | None = None


class Block(nn.Module):
    """One block of the stack; its carry and arguments have the form that `nn.scan` wants.

    video_runs, audio_runs: whether the stream's layers run; one that is given but does not run only serves the other as
    keys and values.
    """

    config: DiTConfig
    video_runs: bool = True
    audio_runs: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Pair, inputs: Pair, keep: Array | None = None, memory: Pair = (None, None)
    ) -> tuple[Pair, None]:
        """tokens: video (B, T, Dv) and audio (B, A, Da); inputs: their StreamInputs; None for a stream that is absent.

        keep: (4, B), rows as named above, or None for all. memory: the streams' TextMemory of this block, or None.
        Returns the new tokens, and None in the place of what a scan would collect. The streams meet where both are
        there and have tokens.
        """
        v, a = jax.tree.map(lambda x: checkpoint_name(x, "block_input"), tokens)
        video, audio = inputs
        meet = all(x is not None and x.shape[1] > 0 for x in tokens)
        kept = lambda row: None if keep is None else keep[row]
        video_layers = StreamLayers(self.config, "video", self.dtype, self.param_dtype, name="video")
        audio_layers = StreamLayers(self.config, "audio", self.dtype, self.param_dtype, name="audio")

        if self.video_runs:
            v = video_layers.attend(v, video, kept(KEEP_VIDEO_SELF), memory[0])
        if self.audio_runs:
            a = audio_layers.attend(a, audio, kept(KEEP_AUDIO_SELF), memory[1])
        if meet:
            cross = CrossLayers(self.config, self.dtype, self.param_dtype, name="cross")
            before = (v, a, video, audio)
            if self.video_runs:
                v = add_gated(v, cross.to_video(*before, kept(KEEP_TO_VIDEO)), jnp.float32(1))
            if self.audio_runs:
                a = add_gated(a, cross.to_audio(*before, kept(KEEP_TO_AUDIO)), jnp.float32(1))
        if self.video_runs:
            v = video_layers.feed(v, video)
        if self.audio_runs:
            a = audio_layers.feed(a, audio)
        return (v, a), None


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

    def attend(self, x: Array, inputs: StreamInputs, keep: Array | None, memory: TextMemory | None = None) -> Array:
        """Self-attention, then text attention: (B, T, D) -> (B, T, D). keep: (B,), 0 skips the self-attention."""
        eps = self.config.norm_eps
        shift, scale, gate = (self._row(inputs, r) for r in (0, 1, 2))
        keep = None if keep is None else keep[:, None, None]
        out = self.attn1(normed(x, scale, shift, eps), mask=inputs.mask, rope_q=inputs.rope, keep=keep)
        x = add_gated(x, out, gate)
        n = rms_norm(x, eps=eps)
        if not self.config.cross_attention_adaln:
            return add_gated(x, self.attn2(n, inputs.context, inputs.text_mask, memory=memory), jnp.float32(1))
        shift, scale, gate = (self._row(inputs, r) for r in (6, 7, 8))
        n, context = modulate(n, scale, shift), inputs.context
        if context is not None:
            context = modulate_text(context, self.prompt_scale_shift_table, inputs.prompt_modulation)
        out = self.attn2(n, context, inputs.text_mask, memory=memory)
        return add_gated(x, out, gate)

    def feed(self, x: Array, inputs: StreamInputs) -> Array:
        """Feed-forward: (B, T, D) -> (B, T, D)."""
        shift, scale, gate = (self._row(inputs, r) for r in (3, 4, 5))
        x = add_gated(x, self.ff(normed(x, scale, shift, self.config.norm_eps)), gate)
        return constrain(x, "batch", self.config.stream(self.modality).tokens, "act_embed")


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


class Attention(nn.Module):
    """Multi-head attention with inner width heads * head_dim.

    query_dim, context_dim: widths of x and of the context. gated: per-head output gates `2 sigmoid(.)` computed from x.
    tokens, context_tokens: logical names of the token axes of x and of the context, for sharding.
    """

    query_dim: int
    context_dim: int
    heads: int
    head_dim: int
    norm_eps: float = 1e-6
    gated: bool = False
    rope_type: Rotation = "split"
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    tokens: str = "tokens_replicated"
    context_tokens: str = "tokens_replicated"

    @nn.compact
    def __call__(
        self,
        x: Array,
        context: Array | None = None,
        mask: Mask = Mask(),
        rope_q: Tables | None = None,
        rope_k: Tables | None = None,
        keep: Array | None = None,
        memory: TextMemory | None = None,
    ) -> Array:
        """(B, T, query_dim) -> (B, T, query_dim).

        context: (B, S, context_dim), or None for self-attention, and where `memory` has its keys and values. rope_q,
        rope_k: cos and sin, (B or 1, T, N, K/2), or one table as `packed` makes it (best made once for all layers);
        keys use rope_q when rope_k is None, and nothing is rotated when rope_q is None. keep: (B, 1, 1), 1 keeps the
        attention and 0 puts the value projection in its place (spec section 9; needs as many keys as queries).
        """
        inner = self.heads * self.head_dim
        y, of_self = x if context is None else context, context is None and memory is None
        y_tokens = self.tokens if of_self else self.context_tokens
        linear = lambda name: Linear(inner, ("embed", "heads"), True, self.dtype, self.param_dtype, name=name)
        weight = lambda name: self.param(name, partitioned(nn.initializers.ones, "heads"), (inner,), self.param_dtype)
        q = checkpoint_name(self._heads(linear("to_q")(x), self.tokens), "query")
        held_k, held_v = (None, None) if memory is None else memory.read()
        k = checkpoint_name(self._heads(linear("to_k")(y) if held_k is None else held_k, y_tokens), "key")
        v = checkpoint_name(self._heads(linear("to_v")(y) if held_v is None else held_v, y_tokens), "value")
        tables = (None, None) if rope_q is None else (packed(rope_q), packed(rope_q if rope_k is None else rope_k))
        gates = self._gates(x) if self.gated else None
        prologue = Prologue(
            weight("q_norm"), weight("k_norm"), *tables, gates if keep is None else None, self.norm_eps, self.rope_type
        )
        spec = AttentionSpec(query_tokens=self.tokens, key_tokens=y_tokens)
        o = attention(q, k, v, mask, spec, prologue)  # (B, T, N, K)
        if keep is not None:
            o = jnp.where(keep[..., None] > 0, o, v)
            o = o if gates is None else o * gates[..., None]
        o = constrain(o.reshape(*o.shape[:2], inner), "batch", self.tokens, "act_heads")  # (B, T, N*K)
        out = Linear(self.query_dim, ("heads", "embed"), True, self.dtype, self.param_dtype, name="to_out")(o)
        return checkpoint_name(constrain(out, "batch", self.tokens, "act_embed"), "attention_out")

    def _heads(self, x: Array, tokens: str) -> Array:
        x = x.reshape(*x.shape[:2], self.heads, self.head_dim)  # (B, T, N, K)
        return constrain(x, "batch", tokens, "act_heads", None)

    def _gates(self, x: Array) -> Array:
        """(B, T, N) factors; logits of zero, the initialisation, give exactly 1."""
        logits = Linear(
            self.heads, ("embed", "heads"), True, self.dtype, self.param_dtype, nn.initializers.zeros,
            name="to_gate_logits",
        )(x)  # fmt: skip
        return (2 * jax.nn.sigmoid(logits.astype(jnp.float32))).astype(self.dtype)


class FeedForward(nn.Module):
    """out(gelu(proj(x))) with inner width 4 * width.

    tokens: logical name of the token axis, for sharding.
    """

    width: int
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    tokens: str = "tokens_replicated"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, T, width) -> (B, T, width)."""
        settings = (self.use_bias, self.dtype, self.param_dtype)
        hidden = Linear(4 * self.width, ("embed", "mlp"), *settings, name="proj")(x)
        hidden = checkpoint_name(constrain(hidden, "batch", self.tokens, "act_mlp"), "mlp_hidden")
        out = Linear(self.width, ("mlp", "embed"), *settings, name="out")(gelu(hidden))
        return checkpoint_name(constrain(out, "batch", self.tokens, "act_embed"), "mlp_out")


def table_init(key: Array, shape: tuple[int, int], dtype: Dtype) -> Array:
    """Modulation tables (rows, D): normal / sqrt(D)."""
    return jax.random.normal(key, shape, dtype) / shape[-1] ** 0.5


def per_token(rows: Array, index: Array | None) -> Array:
    """Rows of the tokens' levels: (B, U, D), (B, T) -> (B, T, D); without an index all share one: (B, 1, D)."""
    if index is None or rows.shape[1] == 1:
        return rows[:, :1]
    if rows.shape[1] > SELECT_LEVELS:
        return jnp.take_along_axis(rows, index[..., None], axis=1)
    spread = rows[:, :1]
    for level in range(1, rows.shape[1]):
        spread = jnp.where(index[..., None] == level, rows[:, level : level + 1], spread)
    return spread


def modulate(x: Array, scale: Array, shift: Array) -> Array:
    """x * (1 + scale) + shift in float32, x's dtype out; scale and shift broadcast over x."""
    return (x.astype(jnp.float32) * (1 + scale) + shift).astype(x.dtype)


def modulate_text(context: Array, table: Array, rows: Array | None) -> Array:
    """Text (B, S, D) modulated by the block's table (2, D), shift and scale, and by rows (B, 2, D) of a noise level."""
    total = table.astype(jnp.float32)[None]  # (1, 2, D)
    total = total if rows is None else total + rows  # (B, 2, D)
    return modulate(context, scale=total[:, 1:2], shift=total[:, 0:1])


def normed(x: Array, scale: Array, shift: Array, eps: float) -> Array:
    """rms(x) * (1 + scale) + shift in float32, x's dtype out (spec section 7)."""
    return modulate(rms_norm(x.astype(jnp.float32), eps=eps), scale, shift).astype(x.dtype)


def add_gated(x: Array, residual: Array, gate: Array) -> Array:
    """x + gate * residual in float32, x's dtype out."""
    return (x.astype(jnp.float32) + gate * residual.astype(jnp.float32)).astype(x.dtype)
