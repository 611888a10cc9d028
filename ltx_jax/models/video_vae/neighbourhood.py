"""The attention layer of the 2.5 diffusion decoder: each grid cell attends to the window around it (video_vae.md 7).

Letters: T, H, W the cells of a stage along frames, rows and columns; C its width; N heads of width K.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require
from ltx_jax.kernels.neighbourhood import Sizes, neighbourhood_attention
from ltx_jax.kernels.prologue import rotate
from ltx_jax.models.layers import Array, Dtype, Linear, partitioned, rms_norm


def rope_split(head_dim: int) -> Sizes:
    """Channels of a head that turn with the frame, the row and the column: (16, 24, 24) for 64, (4, 6, 6) for 16."""
    frames = 2 * (head_dim // 4 // 2)
    if (head_dim - frames) // 2 % 2:
        frames -= 2
    rest = (head_dim - frames) // 2
    return frames, rest, rest


def rope_tables(grid: Sizes, split: Sizes, base: float = 10000.0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, (1, T * H * W, 1, K/2) float32, of the 0-based positions of a (T, H, W) grid.

    split: channels of a head per axis. Frequencies in float64, rounded; the angle is a float32 product.
    """
    angles = []
    for axis, (length, size) in enumerate(zip(grid, split, strict=True)):
        frequency = (base ** (-2 * np.arange(size // 2, dtype=np.float64) / size)).astype(np.float32)
        angle = np.arange(length, dtype=np.float32)[:, None] * frequency  # (L, size / 2)
        shape = [1, 1, 1, size // 2]
        shape[axis] = length
        angles.append(np.broadcast_to(angle.reshape(shape), (*grid, size // 2)))
    angle = np.concatenate(angles, axis=-1).reshape(1, -1, 1, sum(split) // 2)  # (1, T H W, 1, K/2)
    return np.cos(angle), np.sin(angle)


class NeighbourhoodAttention(nn.Module):
    """Multi-head attention of every cell to the window of `kernel_size` (T, H, W) cells around it.

    Norm of q and k per head, then rotation. rope_dim_split: channels of a head per axis, None for `rope_split`.
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
        (b, *grid, c), k = x.shape, self.head_dim
        require(c % k == 0, f"A width of {c} does not divide into heads of {k}.")
        split = self.rope_dim_split or rope_split(k)
        require(sum(split) == k, f"rope_dim_split {tuple(split)} does not add up to the head width {k}.")
        settings = (True, self.dtype, self.param_dtype)
        qkv = Linear(3 * c, ("embed", "heads"), *settings, name="qkv")(x)
        qkv = qkv.reshape(b, -1, 3, c // k, k)  # (B, T H W, 3, N, K)
        weight = lambda name: self.param(name, partitioned(nn.initializers.ones, None), (k,), self.param_dtype)
        tables = rope_tables(tuple(grid), split, self.rope_base)  # type: ignore[arg-type]
        turned = lambda y, name: rotate(rms_norm(y, weight(name)), tables, "interleaved")  # type: ignore[arg-type]
        q, keys, v = turned(qkv[:, :, 0], "q_norm"), turned(qkv[:, :, 1], "k_norm"), qkv[:, :, 2]
        q, keys, v = (y.reshape(b, *grid, c // k, k) for y in (q, keys, v))
        out = neighbourhood_attention(q, keys, v, self.kernel_size).reshape(x.shape)  # (B, T, H, W, C)
        return Linear(c, ("heads", "embed"), *settings, name="proj")(out)
