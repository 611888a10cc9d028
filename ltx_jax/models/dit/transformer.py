"""The audio-video diffusion transformer: noisy tokens of both streams and their text to velocities.

Spec transformer.md sections 3 to 9. `Entry` turns a stream into tokens and modulation, a scan runs the blocks,
`Exit` makes velocities. Velocity v means x_sigma = (1 - sigma) x0 + sigma noise, v = noise - x0.
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
from ltx_jax.models.dit.adaln import AdaLN, modulate, per_token
from ltx_jax.models.dit.block import Block, StreamInputs, table_init
from ltx_jax.models.dit.config import DiTConfig, Modality
from ltx_jax.models.dit.rope import gather_tables, rotary_tables
from ltx_jax.models.layers import Array, Dtype, Linear, gelu, layer_norm, partitioned
from ltx_jax.parallel.rules import constrain
from ltx_jax.streams import Context, Rotary, Stream, length_mask

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


class Entry(nn.Module):
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
        multiplier = jnp.float32(config.timestep_scale_multiplier)
        levels = stream.levels.astype(jnp.float32) * multiplier  # (B, U)
        sigma = stream.sigma.astype(jnp.float32)[:, None] * multiplier  # (B, 1)
        modulation, embedded = self._adaln("adaln_single", config.modulation_rows)(levels)
        mask = Mask(length=stream.length)
        inputs = StreamInputs(
            modulation=modulation,
            level_index=stream.level_index,
            context=self._context(context.tokens),
            rope=self._tables(stream.rotary, sizes.heads, sizes.head_dim),
            mask=mask.replace(bias=stream.attention_bias()),  # type: ignore[attr-defined]
            text_mask=Mask(bias=context.bias),
            key_mask=mask,
        )
        if config.prompt_modulation:
            prompt = self._adaln("prompt_adaln_single", 2)(sigma)[0]  # (B, 1, 2, D)
            inputs = inputs.replace(prompt_modulation=prompt[:, 0])  # type: ignore[attr-defined]
        if other is not None:
            inputs = inputs.replace(**self._cross(stream, levels, other))  # type: ignore[attr-defined]
        return self._tokens(stream), embedded, inputs

    def _adaln(self, name: str, rows: int) -> AdaLN:
        return AdaLN(self.config.stream(self.modality).width, rows, self.param_dtype, name=name)

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
        if not self.config.caption_proj_before_connector:
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


class Exit(nn.Module):
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
        *,
        video_enabled: bool = True,
        audio_enabled: bool = True,
    ) -> tuple[Array | None, Array | None]:
        """Velocities of both streams, (B, T, C_out) float32 each, or None for a stream that is None.

        A disabled stream serves the other as keys and values; its velocity means nothing. keep: (4, L, B) numbers, 1
        keep and 0 skip: video self-attention, audio self-attention, audio to video, video to audio (spec section 9).
        Raises UserError for a stream that the model does not have, or one without text.
        """
        arguments: dict[Modality, Any] = {"video": (video, video_context), "audio": (audio, audio_context)}
        given: dict[Modality, tuple[Stream, Context]] = {}
        for m, (stream, context) in arguments.items():
            if stream is not None:
                given[m] = (stream, _checked(self.config, m, stream, context, keep))
        present = [m for m, (s, _) in given.items() if s.latent.shape[1] > 0]
        enabled = {"video": video_enabled, "audio": audio_enabled}
        tokens, embedded, inputs = {}, {}, {}
        for m, (stream, context) in given.items():
            other = next((given[o][0] for o in present if o != m and m in present), None)
            entry = Entry(self.config, m, self.dtype, self.param_dtype, name=f"{m}_entry")
            tokens[m], embedded[m], inputs[m] = entry(stream, context, other)
        runs = tuple(m for m in present if enabled[m])
        passing = {m: tokens[m] for m in present}
        tokens |= self._blocks(runs)(passing, {m: inputs[m] for m in present}, _layers_first(keep))[0]
        velocity = {
            m: Exit(self.config, m, self.dtype, self.param_dtype, name=f"{m}_exit")(
                tokens[m], embedded[m], given[m][0].level_index
            )
            for m in given
        }
        return velocity.get("video"), velocity.get("audio")

    def _blocks(self, runs: tuple[Modality, ...]) -> nn.Module:
        """All blocks: parameters stacked on a leading `layers` axis, one compiled body."""
        if self.remat not in REMAT_POLICIES:
            raise UserError(f"remat is '{self.remat}', but must be one of {', '.join(REMAT_POLICIES)}.")
        policy = REMAT_POLICIES[self.remat]
        block = Block if policy is None else nn.remat(Block, prevent_cse=False, policy=policy)
        stack = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),  # type: ignore[arg-type]
            length=self.config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return stack(self.config, runs, self.dtype, self.param_dtype, name="blocks")


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
        latent, zero = np.zeros((1, tokens, sizes.in_channels), np.float32), np.zeros(1, np.float32)
        streams[m] = Stream(latent, zero, zero[:, None], rope, cross_rotary=tables[f"{m}_cross"])  # type: ignore[arg-type]
        width = sizes.width if config.caption_proj_before_connector else config.caption_channels
        contexts[m] = Context(np.zeros((1, tokens, width or 0), np.float32))  # type: ignore[arg-type]
    return streams.get("video"), streams.get("audio"), contexts.get("video"), contexts.get("audio")


def _checked(config: DiTConfig, modality: Modality, stream: Stream, context: Context | None, keep: Any) -> Context:
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
    expected = (4, config.num_layers, batch)
    require(
        keep is None or keep.shape == expected,
        f"keep must have shape {expected} (kinds, layers, batch), not {getattr(keep, 'shape', None)}.",
    )
    if context is None:
        raise UserError(f"The {modality} stream has no text context; every stream needs one.")
    width = config.stream(modality).width if config.caption_proj_before_connector else config.caption_channels
    require(
        context.tokens.ndim == 3 and context.tokens.shape[::2] == (batch, width),
        f"The {modality} context has shape {context.tokens.shape}, but must be ({batch}, text tokens, {width}).",
    )
    return context


def _layers_first(keep: Array | None) -> Array | None:
    return None if keep is None else jnp.moveaxis(keep.astype(jnp.float32), 1, 0)  # (L, 4, B)
