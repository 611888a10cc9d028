"""The attention layer of the 2.5 diffusion decoder: each grid cell attends to the window around it (video_vae.md 7).

Letters: T, H, W the cells of a stage along frames, rows and columns; C its width; N heads of width K.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require
from ltx_jax.kernels.neighbourhood import Sizes, neighbourhood_attention
from ltx_jax.kernels.prologue import rotate
from ltx_jax.models.layers import Array, Dtype, Linear, partitioned, rms_norm

Tables = tuple[Any, Any, Any]  # per axis, see `axis_tables`


def rope_split(head_dim: int) -> Sizes:
    """Channels of a head that turn with the frame, the row and the column: (16, 24, 24) for 64, (4, 6, 6) for 16."""
    frames = 2 * (head_dim // 4 // 2)
    if (head_dim - frames) // 2 % 2:
        frames -= 2
    rest = (head_dim - frames) // 2
    return frames, rest, rest


def axis_tables(positions: tuple[np.ndarray, np.ndarray, np.ndarray], split: Sizes, base: float = 10000.0) -> Tables:
    """Cosines and sines of positions along each axis: per axis (L, 2, K/2) float32.

    split: channels of a head per axis. A table is zero where another axis turns the channels, so that the tables of a
    grid are the sum of its axes' and need not be stored. Frequencies in float64, rounded; the angle is a float32
    product.
    """
    tables, first, pairs = [], 0, sum(split) // 2
    for place, size in zip(positions, split, strict=True):
        frequency = (base ** (-2 * np.arange(size // 2, dtype=np.float64) / size)).astype(np.float32)
        angle = place.astype(np.float32)[:, None] * frequency  # (L, size / 2)
        table = np.zeros((len(place), 2, pairs), np.float32)
        table[:, :, first : first + size // 2] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        tables.append(table)
        first += size // 2
    return tables[0], tables[1], tables[2]


def grid_tables(grid: Sizes, head_dim: int, split: Sizes | None = None, base: float = 10000.0) -> Tables:
    """`axis_tables` of the 0-based positions of a (T, H, W) grid."""
    t, h, w = (np.arange(length) for length in grid)
    return axis_tables((t, h, w), split or rope_split(head_dim), base)


class Heads(nn.Module):
    """Queries, keys and values of cells: one product, a norm of q and k per head, and their rotation."""

    head_dim: int = 64
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, tables: Tables) -> tuple[Array, Array, Array]:
        """(B, T, H, W, C) -> three such. tables: of these cells. Raises UserError for odd widths.

        Heads lie side by side in the last axis: on their own axes few and narrow ones would be padded in memory.
        """
        b, c, k = len(x), x.shape[-1], self.head_dim
        require(c % k == 0, f"A width of {c} does not divide into heads of {k}.")
        qkv = Linear(3 * c, ("embed", "heads"), True, self.dtype, self.param_dtype, name="qkv")(x)
        qkv = qkv.reshape(b, -1, 3, c // k, k)  # (B, T H W, 3, N, K)
        t, h, w = (jnp.asarray(table) for table in tables)
        table = t[:, None, None] + h[None, :, None] + w[None, None, :]  # (T, H, W, 2, K/2)
        table = table.reshape(1, -1, 2, 1, k // 2)
        weight = lambda name: self.param(name, partitioned(nn.initializers.ones, None), (k,), self.param_dtype)
        turned = lambda y, name: rotate(rms_norm(y, weight(name)), (table[:, :, 0], table[:, :, 1]), "interleaved")
        heads = (turned(qkv[:, :, 0], "q_norm"), turned(qkv[:, :, 1], "k_norm"), qkv[:, :, 2])
        q, k_, v = (y.reshape(x.shape) for y in heads)
        return q, k_, v


def attend(heads: tuple[Array, Array, Array], window: Sizes, head_dim: int) -> Array:
    """Neighbourhood attention of q, k, v (B, T, H, W, C), see `Heads`, whose result is such, too."""
    split = (y.reshape(*y.shape[:4], -1, head_dim) for y in heads)
    return neighbourhood_attention(*split, window).reshape(heads[0].shape)


class NeighbourhoodAttention(nn.Module):
    """Multi-head attention of every cell to the window of `kernel_size` (T, H, W) cells around it.

    rope_dim_split: channels of a head per axis, None for `rope_split`.
    """

    kernel_size: Sizes
    head_dim: int = 64
    rope_base: float = 10000.0
    rope_dim_split: Sizes | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, T, H, W, C) -> the same. Raises UserError when a window does not fit or heads do not divide C."""
        _, t, h, w, c = x.shape
        split = self.rope_dim_split or rope_split(self.head_dim)
        require(sum(split) == self.head_dim, f"rope_dim_split {tuple(split)} does not add up to {self.head_dim}.")
        tables = grid_tables((t, h, w), self.head_dim, split, self.rope_base)
        heads = Heads(self.head_dim, self.dtype, self.param_dtype, name="heads")(x, tables)
        out = attend(heads, self.kernel_size, self.head_dim)
        return Linear(c, ("heads", "embed"), True, self.dtype, self.param_dtype, name="proj")(out)
