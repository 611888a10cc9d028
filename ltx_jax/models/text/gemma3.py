"""Gemma 3 text decoder: token ids to the hidden states of every layer (spec gemma.md sections 1 and 3)."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.models.layers import Array, Dtype, Linear, gelu, partitioned, rms_norm
from ltx_jax.models.text.config import Gemma3Config as Gemma3Config
from ltx_jax.models.text.masks import window_bias
from ltx_jax.models.text.rope import Tables, inverse_frequencies, rotate_half, tables
from ltx_jax.parallel.rules import constrain


def rotary_tables(config: Gemma3Config, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, float32 (2, S, K/2): row 0 of local layers, row 1 of global ones; positions 0..S-1."""
    local = inverse_frequencies(config.head_dim, config.rope_local_base_freq)
    full = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_factor)
    return tables(np.arange(tokens), np.stack([local, full]))


class Gemma3Layer(nn.Module):
    """One decoder layer in the form that `nn.scan` wants: (h, is_global, ...) -> (output, h)."""

    config: Gemma3Config
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array, is_global: Array, tables: Tables, keep: Array, local: Array | None) -> Any:
        """h: (B, S, D). is_global: () bool. tables: see `rotary_tables`. keep: (B, S) bool. local: the window's bias.

        The window differs from layer to layer inside one scan, so it is a bias chosen by a number, not a static
        setting; `local` is None when the window covers all tokens.
        """
        cos, sin = (t[is_global.astype(jnp.int32)] for t in tables)
        mask = Mask(keep=keep, bias=None if local is None else jnp.where(is_global, 0.0, local))
        a = self._attend(self._norm(h, "input_layernorm"), (cos, sin), mask)
        out = h + self._norm(a, "post_attention_layernorm")
        m = self._mlp(self._norm(out, "pre_feedforward_layernorm"))
        out = out + self._norm(m, "post_feedforward_layernorm")
        return constrain(out, "batch", "tokens_replicated", "act_embed"), h

    def _attend(self, x: Array, tables: Tables, mask: Mask) -> Array:
        c = self.config
        heads = lambda y, n: y.reshape(*y.shape[:2], n, c.head_dim)  # (B, S, N, K)
        q = heads(
            self._linear("q_proj", c.num_attention_heads * c.head_dim, "embed", "heads")(x), c.num_attention_heads
        )
        k, v = (
            heads(self._linear(name, c.num_key_value_heads * c.head_dim, "embed", "heads")(x), c.num_key_value_heads)
            for name in ("k_proj", "v_proj")
        )
        q = constrain(rotate_half(self._norm(q, "q_norm"), tables), "batch", "tokens_replicated", "act_heads", None)
        k = rotate_half(self._norm(k, "k_norm"), tables)
        o = attention(q, k, v, mask, AttentionSpec(scale=c.query_pre_attn_scalar**-0.5, causal=True))
        return self._linear("o_proj", c.hidden_size, "heads", "embed")(o.reshape(*o.shape[:2], -1))  # (B, S, N*K)

    def _mlp(self, x: Array) -> Array:
        gate, up = (
            self._linear(name, self.config.intermediate_size, "embed", "mlp")(x) for name in ("gate_proj", "up_proj")
        )
        hidden = constrain(gelu(gate) * up, "batch", "tokens_replicated", "act_mlp")
        return self._linear("down_proj", self.config.hidden_size, "mlp", "embed")(hidden)

    def _linear(self, name: str, features: int, *axes: str) -> Linear:
        return Linear(features, (axes[0], axes[1]), False, self.dtype, self.param_dtype, name=name)

    def _norm(self, x: Array, name: str) -> Array:
        weight = self.param(name, partitioned(nn.initializers.zeros, "rows"), (x.shape[-1],), self.param_dtype)
        return gemma_norm(x, weight, self.config.rms_norm_eps)


def gemma_norm(x: Array, weight: Array, eps: float) -> Array:
    """RMS norm times (1 + weight), float32 inside: a weight of zeros does nothing."""
    return rms_norm(x, 1 + weight.astype(jnp.float32), eps)


class Gemma3(nn.Module):
    """The decoder: layers under one `nn.scan`, so that compile time does not grow with depth.

    remat: "full" recomputes each layer in the backward pass, "none" keeps everything.
    """

    config: Gemma3Config
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    remat: Literal["none", "full"] = "none"

    def setup(self):
        c = self.config
        # Scaled by sqrt(D) on use: a standard deviation of 1/sqrt(D) starts the residual stream at unit size.
        init = partitioned(nn.initializers.normal(c.hidden_size**-0.5), "vocab", "embed")
        self.embedding = self.param("embedding", init, (c.vocab_size, c.hidden_size), self.param_dtype)
        self.norm = self.param("norm", partitioned(nn.initializers.zeros, "rows"), (c.hidden_size,), self.param_dtype)
        layer = nn.remat(Gemma3Layer, prevent_cse=False) if self.remat == "full" else Gemma3Layer
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=c.num_hidden_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.dtype, self.param_dtype)

    def __call__(self, ids: Array, mask: Array) -> Array:
        """Token ids (B, S) and mask (B, S), 1 = real token -> hidden states (L+1, B, S, D) in the compute dtype.

        Entry 0 is the scaled embedding, entry l the output of layer l, and the last one the final norm of the last
        layer's output. Positions are 0..S-1 in every row; values at padded tokens are finite and mean nothing.
        """
        c, tokens = self.config, ids.shape[1]
        h = jnp.take(self.embedding, ids, axis=0).astype(self.dtype) * jnp.asarray(c.hidden_size**0.5, self.dtype)
        h = constrain(h, "batch", "tokens_replicated", "act_embed")  # (B, S, D)
        cos, sin = rotary_tables(c, tokens)
        local = window_bias(tokens, c.sliding_window) if c.sliding_window < tokens else None
        flags = jnp.asarray(c.global_layers)
        h, inputs = self.layers(h, flags, (jnp.asarray(cos), jnp.asarray(sin)), mask != 0, local)  # inputs (L, B, S, D)
        return jnp.concatenate([inputs, gemma_norm(h, self.norm, c.rms_norm_eps)[None]])

    def logits(self, hidden: Array) -> Array:
        """Final hidden states (B, S, D) -> float32 logits (B, S, V) by the tied embedding (unscaled)."""
        embedding = self.embedding.astype(self.dtype)
        return jnp.einsum("bsd,vd->bsv", hidden.astype(self.dtype), embedding, preferred_element_type=jnp.float32)
