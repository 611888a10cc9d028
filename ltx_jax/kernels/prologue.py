"""What stands between the projections and attention: norm of q and k, rotation, and the output's gates.

Spec transformer.md sections 5.2, 5.3 and 6: RMS norm over all heads together with a learned weight, then rotary
embedding. The statistic of a row is taken once, where the projection is made; all else is one pass over each head's
tile, which the TPU kernel does inside attention (tpu_prologue.py) and `prepare` in plain JAX elsewhere.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Tables = Array | tuple[Array, Array]
Rotation = Literal["split", "interleaved"]


class Side(struct.PyTreeNode):
    """How queries or keys (B, T, N, K) become what attention multiplies.

    inverse: (B, T) float32, see `inverse_rms`. weight: (N, K). table: see `packed`, or None where nothing is rotated.
    """

    inverse: Array
    weight: Array
    table: Array | None = None


class Prologue(struct.PyTreeNode):
    """Norm and rotation of raw q (B, T, N, K) and k (B, S, N, K), and gates of the output.

    q_weight, k_weight: (N * K,) of the norms. q_table, k_table: see `packed`; None: not rotated. gates: (B, T, N)
    factors of every head's output, or None; a gate of zero gets no gradient, as a sigmoid passes none there. Nothing is
    differentiated in the tables. eps: of the norms. rotation: which channels form a pair, see `rotate`.
    """

    q_weight: Array
    k_weight: Array
    q_table: Array | None = None
    k_table: Array | None = None
    gates: Array | None = None
    eps: float = struct.field(pytree_node=False, default=1e-6)
    rotation: Rotation = struct.field(pytree_node=False, default="split")

    def sides(self, q: Array, k: Array) -> tuple[Side, Side]:
        """The statistics of q (B, T, N, K) and k (B, S, N, K), with what else `prepare` takes."""
        return (
            Side(inverse_rms(q, self.eps), self.q_weight.reshape(q.shape[2:]), self.q_table),
            Side(inverse_rms(k, self.eps), self.k_weight.reshape(k.shape[2:]), self.k_table),
        )


def rotate(x: Array, tables: Tables, rotation: str = "split") -> Array:
    """Rotate the pairs of every head (spec transformer.md 5.2, 5.3); float32 inside, x's dtype out.

    x: (B, T, N, K); tables: packed, or cos and sin, (B or 1, T, N or 1, K/2). A pair is (x[i], x[i + K/2]) in the split
    layout and (x[2i], x[2i + 1]) in the interleaved one; both layouts read the same tables.
    """
    half = x.shape[-1] // 2
    if isinstance(tables, tuple):
        cos, sin = (jnp.asarray(t, jnp.float32) for t in tables)
    else:
        table = tables.reshape(*tables.shape[:2], *x.shape[2:])  # (B or 1, T, N, K)
        cos, sin = table[..., :half], table[..., half:]
    y = x.astype(jnp.float32)
    if rotation == "split":
        a, b = y[..., :half], y[..., half:]
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
    a, b = y[..., 0::2], y[..., 1::2]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape).astype(x.dtype)  # (B, T, N, K)


def packed(tables: Tables) -> Array:
    """Cos and sin (B or 1, T, N, K/2) as one table (B or 1, T, N * K) float32: a head's cosines, then its sines.

    One array of the tokens' own layout: a kernel's block of it is as wide as a block of q. A packed table passes.
    """
    if not isinstance(tables, tuple):
        return tables
    table = jnp.concatenate([jnp.asarray(t, jnp.float32) for t in tables], axis=-1)  # (B or 1, T, N, K)
    return table.reshape(*table.shape[:2], table.shape[2] * table.shape[3])


def inverse_rms(x: Array, eps: float) -> Array:
    """1 / sqrt(mean(x^2 over heads and their columns) + eps), (B, T) float32, of x: (B, T, N, K)."""
    # Over the flat columns: the same sum, in the same order, as a norm of the projection's output.
    flat = x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]).astype(jnp.float32)  # (B, T, N * K)
    return jax.lax.rsqrt(jnp.mean(jnp.square(flat), axis=-1) + eps)


def prepare(x: Array, side: Side, rotation: str = "split", factor: float = 1.0) -> Array:
    """factor * rotated(x * inverse * weight), (B, T, N, K): float32 inside, rounded once, to x's dtype."""
    y = x.astype(jnp.float32) * side.inverse[..., None, None] * side.weight.astype(jnp.float32)
    if side.table is not None:
        y = rotate(y, side.table, rotation)
    return (y if factor == 1.0 else y * factor).astype(x.dtype)
