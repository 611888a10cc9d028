"""Attention and feed-forward of this family: the transformer's blocks and the text connectors share them.

Spec transformer.md section 6. Norm of q and k over all heads at once, rotation after the norm, optional output gates.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ltx_jax.kernels.attention import attention
from ltx_jax.kernels.prologue import Prologue, Rotation, Tables, packed
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.models.layers import Array, Dtype, Linear, gelu, partitioned
from ltx_jax.parallel.rules import constrain


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
    ) -> Array:
        """(B, T, query_dim) -> (B, T, query_dim).

        context: (B, S, context_dim), or None for self-attention. rope_q, rope_k: cos and sin, (B or 1, T, N, K/2), or
        one table as `packed` makes it (best made once for all layers); keys use rope_q when rope_k is None, and nothing
        is rotated when rope_q is None. keep: (B, 1, 1), 1 keeps the attention and 0 puts
        the value projection in its place (spec section 9; needs as many keys as queries).
        """
        inner = self.heads * self.head_dim
        y, y_tokens = (x, self.tokens) if context is None else (context, self.context_tokens)
        linear = lambda name: Linear(inner, ("embed", "heads"), True, self.dtype, self.param_dtype, name=name)
        weight = lambda name: self.param(name, partitioned(nn.initializers.ones, "heads"), (inner,), self.param_dtype)
        q = checkpoint_name(self._heads(linear("to_q")(x), self.tokens), "query")
        k = checkpoint_name(self._heads(linear("to_k")(y), y_tokens), "key")
        v = checkpoint_name(self._heads(linear("to_v")(y), y_tokens), "value")
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
