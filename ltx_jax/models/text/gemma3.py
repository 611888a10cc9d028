"""Gemma 3 text decoder: token ids to the hidden states of every layer (spec gemma.md sections 1 and 3).

Letters: B texts, S tokens, D model width, L layers, N query heads, G key/value heads, K head width, V vocabulary, C
slots of a cache (generation.py).
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.models.layers import Array, Dtype, Linear, gelu, partitioned, rms_norm
from ltx_jax.models.text.config import Gemma3Config as Gemma3Config
from ltx_jax.models.text.masks import slot_bias, window_bias
from ltx_jax.models.text.rope import Tables, inverse_frequencies, rotate_half, tables
from ltx_jax.parallel.rules import constrain


def rotary_tables(config: Gemma3Config, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, float32 (2, S, K/2): row 0 of local layers, row 1 of global ones; positions 0..S-1."""
    local = inverse_frequencies(config.head_dim, config.rope_local_base_freq)
    full = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_factor)
    return tables(np.arange(tokens), np.stack([local, full]))


class Cache(struct.PyTreeNode):
    """Keys and values of the tokens so far: (B, C, G, K) of one layer, with leading axes those of several."""

    key: Array
    value: Array


class Reading(struct.PyTreeNode):
    """What all layers of one call share: S tokens are read, which see each other or the C slots of a cache.

    tables: cosines and sines as a family keeps them, of local and of global layers, (S, K/2) or (B, S, K/2) each.
    keep: (B, S or C) bool, what is a token and no padding. local, everywhere: added to the scores of local and of
    global layers, (1, 1, S, S or C). slot: where in the cache the tokens go. everywhere, slot: None without a cache,
    where attention is causal by itself.
    """

    tables: Any
    keep: Array
    local: Array | None = None
    everywhere: Array | None = None
    slot: Array | None = None


class Gemma3Layer(nn.Module):
    """One decoder layer in the form that `nn.scan` wants: (h, is_global, ...) -> (output, h)."""

    config: Any
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array, is_global: Array, cache: Cache | None, reading: Reading) -> Any:
        """h: (B, S, D). is_global: () bool. Returns (B, S, D), and the cache with these tokens, or h without one.

        The window differs from layer to layer inside one scan, so it is a bias chosen by a number, not a static
        setting; `reading.local` is None when the window covers all tokens.
        """
        c, bias = self.config, None
        if reading.local is not None:
            bias = jnp.where(is_global, 0.0 if reading.everywhere is None else reading.everywhere, reading.local)
        spec = AttentionSpec(scale=c.query_pre_attn_scalar**-0.5, causal=cache is None)
        tables = tuple(t[is_global.astype(jnp.int32)] for t in reading.tables)
        out, cache = self._layer(h, tables, Mask(keep=reading.keep, bias=bias), spec, cache, reading.slot)
        return out, h if cache is None else cache

    def _layer(
        self, h: Array, tables: Tables, mask: Mask, spec: AttentionSpec, cache: Cache | None, slot: Array | None
    ) -> tuple[Array, Cache | None]:
        a, cache = self._attend(self._norm(h, "input_layernorm"), tables, mask, spec, cache, slot)
        out = h + self._norm(a, "post_attention_layernorm")
        m = self._mlp(self._norm(out, "pre_feedforward_layernorm"))
        out = out + self._norm(m, "post_feedforward_layernorm")
        return constrain(out, "batch", "tokens_replicated", "act_embed"), cache

    def _attend(
        self, x: Array, tables: Tables, mask: Mask, spec: AttentionSpec, cache: Cache | None, slot: Array | None
    ) -> tuple[Array, Cache | None]:
        q, k, v = self._queries_keys_values(x)
        q = constrain(rotate_half(self._norm(q, "q_norm"), tables), "batch", "tokens_replicated", "act_heads", None)
        k = rotate_half(self._norm(k, "k_norm"), tables)
        if cache is not None and slot is not None:
            write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, axis=1)
            cache = Cache(write(cache.key, k), write(cache.value, v))
            k, v = cache.key, cache.value  # (B, C, G, K)
        o = attention(q, k, v, mask, spec)
        out = self._linear("o_proj", self.config.hidden_size, "heads", "embed")(o.reshape(*o.shape[:2], -1))
        return out, cache  # (B, S, D)

    def _queries_keys_values(self, x: Array) -> tuple[Array, Array, Array]:
        """Projections (B, S, N or G, K), before norms and rotation."""
        c = self.config
        heads = lambda name, n: self._heads(name, n, c.head_dim)(x)
        q = heads("q_proj", c.num_attention_heads)
        return q, heads("k_proj", c.num_key_value_heads), heads("v_proj", c.num_key_value_heads)

    def _heads(self, name: str, heads: int, width: int) -> Callable[[Array], Array]:
        project = self._linear(name, heads * width, "embed", "heads")
        return lambda x: project(x).reshape(*x.shape[:2], heads, width)  # (B, S, N, K)

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

    config: Any
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    remat: Literal["none", "full"] = "none"

    def setup(self):
        c = self.config
        # Scaled by sqrt(D) on use: a standard deviation of 1/sqrt(D) starts the residual stream at unit size.
        init = partitioned(nn.initializers.normal(c.hidden_size**-0.5), "vocab", "embed")
        self.embedding = self.param("embedding", init, (c.vocab_size, c.hidden_size), self.param_dtype)
        self.norm = self.param("norm", partitioned(self._norm_init, "rows"), (c.hidden_size,), self.param_dtype)
        self.layers = self._make_layers()

    def __call__(self, ids: Array, mask: Array) -> Array:
        """Token ids (B, S) and mask (B, S), 1 = real token -> hidden states (L+1, B, S, D) in the compute dtype.

        Entry 0 is the scaled embedding, entry l the output of layer l, and the last one the final norm of the last
        layer's output. Positions are 0..S-1 in every row; values at padded tokens are finite and mean nothing.
        """
        tokens, window, h = ids.shape[1], self.config.sliding_window, self._embed(ids)
        local = window_bias(tokens, window) if window < tokens else None
        tables = jax.tree.map(jnp.asarray, self._tables(tokens))
        h, inputs = self._run(h, None, Reading(tables, mask != 0, local))  # inputs (L, B, S, D)
        return jnp.concatenate([inputs, self._final(h)[None]])

    def extend(self, ids: Array, positions: Array, keep: Array, slot: Array, cache: Any) -> tuple[Array, Any]:
        """Read ids (B, T) at `positions` (B, T) into the slots from `slot` on of a cache of C slots.

        keep: (B, C) bool, the slots that hold real tokens, these among them. Returns the final hidden states
        (B, T, D) and the cache.
        """
        tokens, slots = ids.shape[1], keep.shape[1]
        tables = jax.tree.map(lambda t: jnp.asarray(t)[..., positions, :], self._tables(slots))
        local, everywhere = (slot_bias(slot, tokens, slots, w) for w in (self.config.sliding_window, None))
        h, cache = self._run(self._embed(ids), cache, Reading(tables, keep, local, everywhere, slot))
        return self._final(h), cache

    def logits(self, hidden: Array) -> Array:
        """Final hidden states (B, S, D) -> float32 logits (B, S, V) by the tied embedding (unscaled)."""
        embedding = self.embedding.astype(self.dtype)
        return jnp.einsum("bsd,vd->bsv", hidden.astype(self.dtype), embedding, preferred_element_type=jnp.float32)

    def empty_cache(self, batch: int, slots: int) -> Any:
        """A cache of C slots for every layer, all zeros."""
        c = self.config
        zeros = jnp.zeros((c.num_hidden_layers, batch, slots, c.num_key_value_heads, c.head_dim), self.dtype)
        return Cache(zeros, zeros)

    # What the families of Gemma do not share:

    _norm_init = staticmethod(nn.initializers.zeros)

    def _make_layers(self) -> Any:
        return scanned(Gemma3Layer, self.remat, (0, 0, nn.broadcast), self.config.num_hidden_layers)(
            self.config, self.dtype, self.param_dtype
        )

    def _run(self, h: Array, cache: Any, reading: Reading) -> tuple[Array, Any]:
        """All layers: their last output, and what each made beside, stacked: its input (L, B, S, D), or its cache."""
        return self.layers(h, jnp.asarray(self.config.global_layers), cache, reading)

    def _tables(self, tokens: int) -> Any:
        return rotary_tables(self.config, tokens)

    def _final(self, h: Array) -> Array:
        return gemma_norm(h, self.norm, self.config.rms_norm_eps)

    def _embed(self, ids: Array) -> Array:
        width = self.config.hidden_size
        h = jnp.take(self.embedding, ids, axis=0).astype(self.dtype) * jnp.asarray(width**0.5, self.dtype)
        return constrain(h, "batch", "tokens_replicated", "act_embed")  # (B, S, D)


def scanned(layer: type[nn.Module], remat: str, in_axes: Any, length: int) -> Any:
    """`length` times `layer`, parameters stacked; remat: see `Gemma3`."""
    return nn.scan(
        nn.remat(layer, prevent_cse=False) if remat == "full" else layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
