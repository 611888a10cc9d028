"""The audio-video diffusion transformer: noisy tokens of both streams and their text to velocities.

Spec transformer.md sections 3 to 9. `DiT` tells the whole; `StreamEmbed` turns a stream into tokens and modulation, a
scan runs the blocks (block.py), `StreamOutput` makes velocities. Velocity v means x_sigma = (1 - sigma) x0 + sigma
noise, v = noise - x0. Letters beyond the usual: U distinct noise levels, M modulation rows.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import UserError, require
from ltx_jax.kernels.prologue import packed
from ltx_jax.kernels.spec import Mask
from ltx_jax.models.dit.block import Block, Pair, StreamInputs, modulate, per_token, table_init
from ltx_jax.models.dit.config import DiTConfig, Modality
from ltx_jax.models.dit.rope import gather_tables, rotary_tables
from ltx_jax.models.layers import Array, Dtype, Linear, gelu, layer_norm, partitioned
from ltx_jax.models.storage import in_host_memory, stream_layers
from ltx_jax.parallel.rules import constrain
from ltx_jax.streams import Context, Rotary, Stream, length_mask

ADDED = "added"  # collection of what the blocks add to the tokens that enter them
HALF = 128  # frequencies of the timestep's sinusoid
Remat = Literal["none", "full", "dots", "offload"]
# What the backward pass finds stored; all else it computes again, block by block. None: remat is off.
# "offload" is "full" whose one stored thing, the tokens that enter each block, waits in the host's memory.
REMAT_POLICIES: dict[Remat, Callable | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names(
        "query", "key", "value", "attended", "attention_out", "mlp_hidden", "mlp_out"
    ),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["block_input"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


class DiT(nn.Module):
    """The transformer. dtype: compute; remat: what the backward pass recomputes, a key of REMAT_POLICIES.

    Initialise with `example_inputs`: a layer that does not run makes no parameters.
    """

    config: DiTConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        video: Stream | None,
        audio: Stream | None,
        video_context: Context | None = None,
        audio_context: Context | None = None,
        keep: Array | None = None,
        added: Pair | None = None,
    ) -> tuple[Array | None, Array | None]:
        """Velocities of both streams, (B, T, C_out) float32 each, or None for a stream that is None.

        A stream that is not enabled serves the other as keys and values; its velocity means nothing. keep: (4, L, B)
        numbers, 1 keep and 0 skip: video self-attention, audio self-attention, audio to video, video to audio (spec
        section 9). added: what the blocks are taken to add to the tokens, (B, T, D) of each stream, in the place of
        running them; they leave what they did add in the collection "added" where that may be written. Raises UserError
        for a stream that the model does not have, or one without text.
        """
        meet = _has_tokens(video) and _has_tokens(audio)
        v, video_levels, video_inputs = self._embed("video", video, video_context, audio if meet else None)
        a, audio_levels, audio_inputs = self._embed("audio", audio, audio_context, video if meet else None)
        for stream in (video, audio):
            _check_keep(self.config, stream, keep)

        # v: (B, T, Dv), a: (B, A, Da)
        if added is None:
            runs = (_runs(video), _runs(audio))
            memory = tuple(None if context is None else context.memory for context in (video_context, audio_context))
            entered = (v, a)
            v, a = self._blocks(runs, entered, (video_inputs, audio_inputs), _layers_first(keep), memory)
            if self.is_mutable_collection(ADDED) and not self.is_initializing():
                change = jax.tree.map(lambda new, old: new - old, (v, a), entered)
                self.sow(ADDED, "tokens", change, init_fn=tuple, reduce_fn=lambda _, new: new)
        else:
            v, a = (
                x if x is None or by is None else x + by.astype(x.dtype) for x, by in zip((v, a), added, strict=True)
            )

        return self._output("video", video, v, video_levels), self._output("audio", audio, a, audio_levels)

    def _embed(self, modality: Modality, stream: Stream | None, context: Context | None, other: Stream | None) -> Any:
        """What `StreamEmbed` makes of a stream, or thrice None where there is none."""
        if stream is None:
            return None, None, None
        context = _checked(self.config, modality, stream, context)
        return StreamEmbed(self.config, modality, self.dtype, self.param_dtype, name=f"{modality}_entry")(
            stream, context, other
        )

    def _output(self, modality: Modality, stream: Stream | None, tokens: Any, levels: Any) -> Array | None:
        """The velocity of a stream, if there is one."""
        if stream is None:
            return None
        output = StreamOutput(self.config, modality, self.dtype, self.param_dtype, name=f"{modality}_exit")
        return output(tokens, levels, stream.level_index)

    def _blocks(self, runs: tuple[bool, bool], tokens: Pair, inputs: Pair, keep: Array | None, memory: Pair) -> Pair:
        """All blocks: parameters stacked on a leading `layers` axis, one compiled body. See `Block`."""
        settings = (self.config, *runs, self.dtype, self.param_dtype)
        held = None if self.is_initializing() else self.get_variable("params", "blocks")
        if in_host_memory(held):
            alone = Block(*settings, parent=None)
            step = lambda tokens, layer, other: alone.apply({"params": layer}, tokens, inputs, *other)[0]
            return stream_layers(step, tokens, held, (keep, memory), self.config.num_layers)
        if self.remat not in REMAT_POLICIES:
            raise UserError(f"remat is '{self.remat}', but must be one of {', '.join(REMAT_POLICIES)}.")
        policy = REMAT_POLICIES[self.remat]
        block = Block if policy is None else nn.remat(Block, prevent_cse=False, policy=policy)
        stack = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0, 0),  # type: ignore[arg-type]
            length=self.config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return stack(*settings, name="blocks")(tokens, inputs, keep, memory)[0]


class StreamEmbed(nn.Module):
    """A stream on its way in: tokens, modulation per level, text, masks, rotary tables (spec section 4)."""

    config: DiTConfig
    modality: Modality
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, stream: Stream, context: Context, other: Stream | None) -> tuple[Array, Array, StreamInputs]:
        """Tokens (B, T, D), the embedded timestep per level (B, U, D), and what the blocks need.

        other: the other stream where present; its sigma feeds this one's cross gate.
        """
        config, sizes = self.config, self.config.stream(self.modality)
        require(
            stream.level_index is not None or stream.levels.shape[1] == 1,
            f"The {self.modality} stream has {stream.levels.shape[1]} noise levels but no level_index.",
        )
        levels = stream.levels.astype(jnp.float32) * jnp.float32(config.timestep_scale_multiplier)  # (B, U)
        modulation, embedded = self._adaln("adaln_single", config.modulation_rows)(levels)
        inputs = StreamInputs(
            modulation=modulation,
            level_index=stream.level_index,
            context=None if context.memory is not None else self._context(context.tokens),
            rope=self._tables(stream.rotary, sizes.heads, sizes.head_dim),
            mask=Mask(length=stream.length, bias=stream.attention_bias()),
            text_mask=Mask(bias=context.bias),
            key_mask=Mask(length=stream.length),
            prompt_modulation=self._prompt(stream),
            **({} if other is None else self._cross(stream, levels, other)),
        )
        return self._tokens(stream), embedded, inputs

    def _adaln(self, name: str, rows: int) -> "AdaLN":
        return AdaLN(self.config.stream(self.modality).width, rows, self.param_dtype, name=name)

    def _prompt(self, stream: Stream) -> Array | None:
        """(B, 2, D) rows that modulate the text by the sample's sigma, in the releases that do so."""
        if not self.config.prompt_modulation:
            return None
        sigma = stream.sigma.astype(jnp.float32)[:, None] * jnp.float32(self.config.timestep_scale_multiplier)  # (B, 1)
        return self._adaln("prompt_adaln_single", 2)(sigma)[0][:, 0]

    def _cross(self, stream: Stream, levels: Array, other: Stream) -> dict[str, Any]:
        """Scale and shift follow the stream's own levels, the gate the other stream's sigma (spec 4.3)."""
        config = self.config
        require(stream.cross_rotary is not None, f"The {self.modality} stream lacks cross_rotary beside the other one.")
        assert stream.cross_rotary is not None
        audio = config.stream("audio")
        sigma = other.sigma.astype(jnp.float32)[:, None] * jnp.float32(config.av_ca_timestep_scale_multiplier)
        return {
            "cross_modulation": self._adaln("av_ca_scale_shift_adaln_single", 4)(levels)[0],
            "cross_gate": self._adaln("av_ca_gate_adaln_single", 1)(sigma)[0][:, 0, 0],  # (B, D)
            "cross_rope": self._tables(stream.cross_rotary, audio.heads, audio.head_dim),
        }

    def _tables(self, rotary: Rotary, heads: int, head_dim: int) -> Array:
        """(B or 1, T, N * K) float32: here, so that one table serves all layers."""
        table = packed(gather_tables(rotary, heads, head_dim))
        return constrain(
            table, "batch" if table.shape[0] > 1 else None, self.config.stream(self.modality).tokens, "act_heads"
        )

    def _context(self, text: Array) -> Array:
        if not self.config.caption_proj_before_connector:  # as remember_text does
            width = self.config.stream(self.modality).width
            text = CaptionProjection(width, self.dtype, self.param_dtype, name="caption_projection")(text)
        return constrain(text.astype(self.dtype), "batch", "tokens_replicated", "act_embed")

    def _tokens(self, stream: Stream) -> Array:
        """Projected tokens. Padding enters as zeros: what lies there must not reach a real token, NaN included."""
        sizes = self.config.stream(self.modality)
        latent = stream.latent
        if stream.length is not None:
            latent = jnp.where(length_mask(stream.length, *latent.shape[:2])[..., None], latent, 0)
        project = Linear(sizes.width, ("embed", "mlp"), True, self.dtype, self.param_dtype, name="patchify_proj")
        x = project(constrain(latent, "batch", sizes.tokens, "act_embed"))
        if self.modality == "video" and self.config.use_keyframes_abs_pos_embedding:
            embedding = self.param(
                "keyframes_abs_pos_embedding", partitioned(nn.initializers.normal(0.02), None, None),
                (1, sizes.width), self.param_dtype,
            )  # fmt: skip
            if stream.keyframes is not None:
                x = x + stream.keyframes[..., None] * embedding.astype(x.dtype)
        return constrain(x, "batch", sizes.tokens, "act_embed")


class StreamOutput(nn.Module):
    """A stream on its way out: modulated layer norm and projection to a velocity (spec section 8)."""

    config: DiTConfig
    modality: Modality
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, embedded: Array, level_index: Array | None) -> Array:
        """x: (B, T, D); embedded: (B, U, D), the embedded timestep per level. Returns (B, T, C_out) float32."""
        sizes = self.config.stream(self.modality)
        table = self.param(
            "scale_shift_table", partitioned(table_init, "rows", None), (2, sizes.width), self.param_dtype
        )
        shift, scale = (per_token(embedded + table[r].astype(jnp.float32), level_index) for r in (0, 1))
        x = modulate(layer_norm(x.astype(jnp.float32), self.config.norm_eps), scale, shift)
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")  # near zero velocity at first
        out = Linear(sizes.out_channels, ("mlp", "embed"), True, self.dtype, self.param_dtype, small, name="proj_out")
        return constrain(out(x).astype(jnp.float32), "batch", sizes.tokens, "act_embed")


class CaptionProjection(nn.Module):
    """Text of the caption width to the stream's width; 2.0 keeps these in the transformer (spec 4.4)."""

    width: int
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, S, caption_channels) -> (B, S, width)."""
        settings = (True, self.dtype, self.param_dtype)
        hidden = gelu(Linear(self.width, ("embed", "mlp"), *settings, name="linear_1")(x))
        return Linear(self.width, ("mlp", "embed"), *settings, name="linear_2")(hidden)


class AdaLN(nn.Module):
    """AdaLN-single: noise levels to `rows` modulation rows of width D. Computes in float32 whatever the model does."""

    width: int
    rows: int
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, t: Array) -> tuple[Array, Array]:
        """t: (B, U) multiplied levels. Returns rows (B, U, M, D) and the embedded timestep (B, U, D), float32."""
        small = nn.initializers.normal(0.02)  # a young model modulates gently

        def linear(name: str, features: int, axes: tuple[str, str], x: Array, **init) -> Array:
            return Linear(features, axes, True, jnp.float32, self.param_dtype, name=name, **init)(x)

        hidden = linear("linear_1", self.width, ("embed", "mlp"), timestep_embedding(t))
        embedded = linear("linear_2", self.width, ("mlp", "embed"), jax.nn.silu(hidden))
        rows = linear("linear", self.rows * self.width, ("embed", "mlp"), jax.nn.silu(embedded), kernel_init=small)
        rows = rows.reshape(*t.shape, self.rows, self.width)  # (B, U, M, D)
        return (
            constrain(rows, "batch", None, None, "act_embed"),
            constrain(embedded, "batch", None, "act_embed"),
        )


def _timestep_frequencies() -> np.ndarray:
    """(128,) float32. The exponent is rounded to float32 before the exponential, which is rounded once."""
    exponent = np.float32(-np.log(10000.0)) * np.arange(HALF, dtype=np.float32) / np.float32(HALF)
    return np.exp(exponent.astype(np.float64)).astype(np.float32)


FREQUENCIES = _timestep_frequencies()


def timestep_embedding(t: Array) -> Array:
    """Sinusoid of t (already multiplied, up to 1000): (...) -> (..., 256) float32, cosines first."""
    angle = t.astype(jnp.float32)[..., None] * FREQUENCIES
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def example_inputs(config: DiTConfig, tokens: int = 2) -> tuple[Any, Any, Any, Any]:
    """Small inputs for `init_params` and `abstract_params`: streams and contexts in the order of `DiT.__call__`."""
    streams: dict[str, Stream] = {}
    contexts: dict[str, Context] = {}
    positions = {m: np.zeros((1, len(config.stream(m).max_pos), tokens, 2), np.float32) for m in config.modalities}
    tables = rotary_tables(config, positions.get("video"), positions.get("audio"))
    for m in config.modalities:
        sizes, rope = config.stream(m), tables[m]
        assert rope is not None
        # of NumPy: shapes are also inferred under meshes whose devices do not exist
        zeros: Any = lambda *shape: np.zeros(shape, np.float32)
        latent, sigma, levels = zeros(1, tokens, sizes.in_channels), zeros(1), zeros(1, 1)
        streams[m] = Stream(latent, sigma, levels, rope, cross_rotary=tables[f"{m}_cross"])
        width = sizes.width if config.caption_proj_before_connector else config.caption_channels
        contexts[m] = Context(zeros(1, tokens, width or 0))
    return streams.get("video"), streams.get("audio"), contexts.get("video"), contexts.get("audio")


def _checked(config: DiTConfig, modality: Modality, stream: Stream, context: Context | None) -> Context:
    """The stream's text, after sentences about what does not fit."""
    channels = config.stream(modality).in_channels if modality in config.modalities else 0
    require(modality in config.modalities, f"This is a model of {config.model_type} alone: give no {modality} stream.")
    require(
        stream.latent.ndim == 3 and stream.latent.shape[-1] == channels,
        f"The {modality} latent has shape {stream.latent.shape}, but the model reads (batch, tokens, {channels}).",
    )
    batch, tokens = stream.latent.shape[:2]
    require(
        stream.rotary.index.shape[0] in (1, batch) and stream.rotary.index.shape[1] == tokens,
        f"The {modality} stream has positions of {stream.rotary.index.shape[:2]} (batch, tokens) but a latent of "
        f"{(batch, tokens)}.",
    )
    if context is None:
        raise UserError(f"The {modality} stream has no text context; every stream needs one.")
    if context.memory is not None:
        require(not config.prompt_modulation, "Text keys cannot be kept where the noise level modulates the text.")
        return context
    width = config.stream(modality).width if config.caption_proj_before_connector else config.caption_channels
    require(
        context.tokens.ndim == 3 and context.tokens.shape[::2] == (batch, width),
        f"The {modality} context has shape {context.tokens.shape}, but must be ({batch}, text tokens, {width}).",
    )
    return context


def _check_keep(config: DiTConfig, stream: Stream | None, keep: Array | None) -> None:
    if stream is None or keep is None:
        return
    expected = (4, config.num_layers, stream.latent.shape[0])
    require(keep.shape == expected, f"keep must have shape {expected} (kinds, layers, batch), not {keep.shape}.")


def _has_tokens(stream: Stream | None) -> bool:
    return stream is not None and stream.latent.shape[1] > 0


def _runs(stream: Stream | None) -> bool:
    return _has_tokens(stream) and stream is not None and stream.enabled


def _layers_first(keep: Array | None) -> Array | None:
    return None if keep is None else jnp.moveaxis(keep.astype(jnp.float32), 1, 0)  # (L, 4, B)
