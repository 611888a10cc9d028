"""Hidden states of the text model to the contexts of both streams (spec transformer.md section 12)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require
from ltx_jax.kernels.prologue import Tables, packed
from ltx_jax.kernels.spec import Mask
from ltx_jax.models.dit.block import Attention, FeedForward
from ltx_jax.models.dit.rope import gather_tables, rotary
from ltx_jax.models.layers import Array, Dtype, partitioned, rms_norm
from ltx_jax.models.text.connectors_config import ConnectorConfig
from ltx_jax.models.text.connectors_config import TextConnectorsConfig as TextConnectorsConfig
from ltx_jax.models.text.features import FeatureExtractorV1, FeatureExtractorV2
from ltx_jax.parallel.rules import constrain


def move_to_front(x: Array, mask: Array) -> tuple[Array, Array]:
    """Real tokens first, padding behind, each in its order. x: (B, S, E), mask: (B, S) -> both reordered."""
    order = jnp.argsort(mask == 0, axis=1, stable=True)  # (B, S)
    return jnp.take_along_axis(x, order[..., None], axis=1), jnp.take_along_axis(mask, order, axis=1)


def fill_with_registers(x: Array, mask: Array, registers: Array) -> Array:
    """Put `registers[p mod R]` at every padded position p. x: (B, S, E), mask: (B, S), registers: (R, E)."""
    tokens, count = x.shape[1], registers.shape[0]
    require(
        tokens % count == 0, f"A text of {tokens} tokens is no multiple of the {count} registers; change its length."
    )
    tiled = jnp.tile(registers, (tokens // count, 1))  # (S, E)
    return jnp.where((mask != 0)[..., None], x, tiled)


def context_mask(mask: Array, registers: int) -> Array:
    """(B, S) mask of a connector's output: all ones, as registers replace padding; without them, the moved mask."""
    if registers:
        return jnp.ones_like(mask)
    return move_to_front(mask[..., None], mask)[1]


def connector_tables(config: ConnectorConfig, tokens: int) -> Tables:
    """Rotary cosines and sines of the plain positions 0..S-1, packed: (1, S, N * K)."""
    positions = np.arange(tokens, dtype=np.float32)[None, None]  # (1, 1, S)
    table = rotary(positions, config.width, config.max_pos, config.theta, config.precision)
    return packed(gather_tables(table, config.heads, config.head_dim))


class ConnectorLayer(nn.Module):
    """x + attention(rms(x)), then + feed-forward(rms(x)), in the form that `nn.scan` wants."""

    config: ConnectorConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, tables: Tables, mask: Mask) -> tuple[Array, None]:
        """x: (B, S, E) -> (B, S, E), None."""
        c = self.config
        attention = Attention(
            c.width, c.width, c.heads, c.head_dim, gated=c.gated, rope_type=c.rope_type, dtype=self.dtype,
            param_dtype=self.param_dtype, name="attn1",
        )  # fmt: skip
        x = x + attention(rms_norm(x), mask=mask, rope_q=tables)
        x = x + FeedForward(c.width, c.ff_bias, self.dtype, self.param_dtype, name="ff")(rms_norm(x))
        return constrain(x, "batch", "tokens_replicated", "act_embed"), None


class Connector(nn.Module):
    """One stream's connector: real tokens to the front, registers behind them, layers, final norm."""

    config: ConnectorConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Array, mask: Array) -> Array:
        """Features (B, S, E) and mask (B, S), 1 = real token anywhere in the row -> context (B, S, E).

        Nothing is masked afterwards (see `context_mask`). Raises UserError when S is no multiple of the registers.
        """
        c = self.config
        x, moved = move_to_front(features.astype(self.dtype), mask)
        attention_mask = Mask(keep=moved != 0)
        if c.registers:
            init = partitioned(nn.initializers.normal(1.0), "rows", "embed")
            registers = self.param("learnable_registers", init, (c.registers, c.width), self.param_dtype)
            x, attention_mask = fill_with_registers(x, moved, registers.astype(self.dtype)), Mask()
        layers: Any = nn.scan(
            ConnectorLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=c.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.dtype, self.param_dtype, name="layers")
        x, _ = layers(
            constrain(x, "batch", "tokens_replicated", "act_embed"), connector_tables(c, x.shape[1]), attention_mask
        )
        return rms_norm(x)


class TextConnectors(nn.Module):
    """Feature extractor and both connectors: hidden states of the text model -> (video context, audio context).

    `extract` and `connect` are its two halves: training caches the features and runs the connectors anew.
    """

    config: TextConnectorsConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def setup(self):
        c, types = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if c.feature_extractor == "v1":
            self.features = FeatureExtractorV1(c.video.width, **types)
        else:
            self.features = FeatureExtractorV2(c.video.width, c.audio.width, **types)
        self.video_connector = Connector(c.video, **types)
        self.audio_connector = Connector(c.audio, **types)

    def __call__(self, hidden_states: Array, mask: Array) -> tuple[Array, Array]:
        """(B, S, H, G), mask (B, S), 1 = real token -> video (B, S, E), audio (B, S, E')."""
        return self.connect(*self.extract(hidden_states, mask), mask)

    def extract(self, hidden_states: Array, mask: Array) -> tuple[Array, Array]:
        """The feature extractor alone: video and audio features, (B, S, E) and (B, S, E')."""
        expected = (self.config.hidden_size, self.config.num_hidden_states)
        require(
            hidden_states.shape[2:] == expected,
            f"Hidden states of (width, states) {hidden_states.shape[2:]} were given where {expected} are expected.",
        )
        return self.features(hidden_states, mask)

    def connect(self, video: Array, audio: Array, mask: Array) -> tuple[Array, Array]:
        """The connectors alone: features of both streams and their mask -> contexts."""
        return self.video_connector(video, mask), self.audio_connector(audio, mask)
