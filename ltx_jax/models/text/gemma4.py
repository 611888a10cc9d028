"""Gemma 4 text decoder ("unified"): what differs from Gemma 3, all of it (spec gemma.md section 4)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.models.layers import Array, partitioned, rms_norm
from ltx_jax.models.text.config import Gemma4Config
from ltx_jax.models.text.gemma3 import Cache, Gemma3, Gemma3Layer, Reading, scanned
from ltx_jax.models.text.rope import inverse_frequencies, tables


def rotary_tables(config: Gemma4Config, tokens: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """(cos, sin), float32 (S, K/2), of local and of global layers, whose heads differ in width; positions 0..S-1."""
    local = inverse_frequencies(config.head_dim, config.rope_local_base_freq)
    full = inverse_frequencies(config.global_head_dim, config.rope_theta, share=config.partial_rotary_factor)
    return tuple(tables(np.arange(tokens), frequencies) for frequencies in (local, full))


class Gemma4Layer(Gemma3Layer):
    """One decoder layer: scores are not scaled, values normed, the output multiplied by a number of the layer.

    Norms multiply by their weight. is_global: static, since global layers have other heads than local ones.
    """

    is_global: bool = False

    @nn.compact
    def __call__(self, h: Array, cache: Cache | None, reading: Reading) -> Any:  # type: ignore[override]
        """As Gemma 3's; without a cache the window is static."""
        window = None if self.is_global or h.shape[1] <= self.config.sliding_window else self.config.sliding_window
        spec = AttentionSpec(scale=1.0, causal=cache is None, window=window if cache is None else None)
        bias = None if cache is None else reading.everywhere if self.is_global else reading.local
        mask = Mask(keep=reading.keep, bias=bias)
        out, cache = self._layer(h, reading.tables[self.is_global], mask, spec, cache, reading.slot)
        scalar = self.param("layer_scalar", partitioned(nn.initializers.ones, None), (1,), self.param_dtype)
        return out * scalar.astype(out.dtype), h if cache is None else cache

    def _queries_keys_values(self, x: Array) -> tuple[Array, Array, Array]:
        c, (heads, groups, width) = self.config, self.config.heads_of(self.is_global)
        k = self._heads("k_proj", groups, width)(x)
        v = k if self.is_global and c.attention_k_eq_v else self._heads("v_proj", groups, width)(x)
        return self._heads("q_proj", heads, width)(x), k, rms_norm(v, eps=c.rms_norm_eps)

    def _norm(self, x: Array, name: str) -> Array:
        weight = self.param(name, partitioned(nn.initializers.ones, "rows"), (x.shape[-1],), self.param_dtype)
        return rms_norm(x, weight, self.config.rms_norm_eps)


class _Period(nn.Module):
    """The layers after which the kinds repeat; each has its own shapes, so the scan runs over periods."""

    config: Gemma4Config
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, h: Array, caches: tuple[Cache, ...] | None, reading: Reading) -> tuple[Array, tuple[Any, ...]]:
        made = []
        for i in range(self.config.period):
            is_global = self.config.global_layers[i]
            layer = Gemma4Layer(self.config, self.dtype, self.param_dtype, is_global=is_global, name=f"layer_{i}")
            h, one = layer(h, None if caches is None else caches[i], reading)
            made.append(one)
        return h, tuple(made)


class Gemma4(Gemma3):
    """The decoder. Its cache is a tuple over the layers of a period, each stacked over the periods."""

    config: Gemma4Config

    _norm_init = staticmethod(nn.initializers.ones)

    def logits(self, hidden: Array) -> Array:
        """Final hidden states (B, S, D) -> float32 logits (B, S, V), held within the cap by a hyperbolic tangent."""
        logits, cap = super().logits(hidden), self.config.final_logit_softcapping
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def empty_cache(self, batch: int, slots: int) -> tuple[Cache, ...]:
        """See `Gemma3.empty_cache`."""
        c = self.config

        def empty(is_global: bool) -> Cache:
            _, groups, width = c.heads_of(is_global)
            zeros = jnp.zeros((c.num_hidden_layers // c.period, batch, slots, groups, width), self.dtype)
            return Cache(zeros, zeros)

        return tuple(empty(c.global_layers[i]) for i in range(c.period))

    def _make_layers(self) -> Any:
        c = self.config
        periods = scanned(_Period, self.remat, (0, nn.broadcast), c.num_hidden_layers // c.period)
        return periods(c, self.dtype, self.param_dtype)

    def _run(self, h: Array, cache: Any, reading: Reading) -> tuple[Array, Any]:
        h, made = self.layers(h, cache, reading)
        if cache is not None:
            return h, made
        inputs = jnp.stack(made, axis=1)  # (periods, layers of one, B, S, D)
        return h, inputs.reshape(-1, *inputs.shape[2:])

    def _tables(self, tokens: int) -> Any:
        return rotary_tables(self.config, tokens)

    def _final(self, h: Array) -> Array:
        return rms_norm(h, self.norm, self.config.rms_norm_eps)
