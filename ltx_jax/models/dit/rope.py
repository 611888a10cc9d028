"""Rotary embedding: tables on the host, gathered per token on the device (spec transformer.md section 5).

The highest frequency is 15708 radians, so every rounding is part of the definition: the frequency table, the position
and their product are rounded to float32, the cosine is taken accurately of that number. Under `jit` a division by a
constant becomes a multiplication and misses cosines by 1e-3, hence NumPy. Letters beyond the usual: P distinct
positions of one axis, F frequencies per axis.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require
from ltx_jax.models.dit.config import DiTConfig, Modality
from ltx_jax.models.layers import Array
from ltx_jax.streams import Rotary


def frequencies(width: int, axes: int, theta: float = 10000.0, precision: str = "float64") -> np.ndarray:
    """(F,) float32 radians, from pi/2 to theta*pi/2 in geometric steps; F = width // (2 axes) (5.1).

    precision: arithmetic of the table, "float64" or "float32"; the result is rounded to float32 in both.
    """
    count = width // (2 * axes)
    require(count >= 1, f"A rotary width of {width} is too small for {axes} position axes.")
    dtype = np.float64 if precision == "float64" else np.float32
    exponents = np.linspace(0, 1, count, dtype=dtype)
    return (np.power(dtype(theta), exponents) * dtype(np.pi / 2)).astype(np.float32)


def rotary(
    positions: np.ndarray,
    width: int,
    max_pos: tuple[float, ...],
    theta: float = 10000.0,
    precision: str = "float64",
    middle: bool = True,
) -> Rotary:
    """Tables of the distinct positions and each token's rows in them.

    positions: (B, axes, T, 2) float32 bounds [start, end), of which the middle is taken (or the start when `middle`
    is false), or (B, axes, T) plain positions; units are those of max_pos. width: over all heads. B becomes 1 where
    all samples agree. Raises UserError when the axes of positions and max_pos differ.
    """
    positions = np.asarray(positions, np.float32)
    if positions.ndim == 4:
        start, end = positions[..., 0], positions[..., 1]
        positions = (start + end) / np.float32(2) if middle else start  # (B, axes, T)
    axes = len(max_pos)
    require(
        positions.ndim == 3 and positions.shape[1] == axes,
        f"Positions of shape {positions.shape} do not have the {axes} axes of max_pos {max_pos}.",
    )
    if (positions == positions[:1]).all():
        positions = positions[:1]
    table = frequencies(width, axes, theta, precision)
    cos, sin, index = [], [], []
    for axis, limit in enumerate(max_pos):
        distinct, rows = np.unique(positions[:, axis], return_inverse=True)
        u = np.float32(2) * (distinct / np.float32(limit)) - np.float32(1)  # (P,)
        angle = (table * u[:, None]).astype(np.float64)  # (P, F): a float32 product, its cosine taken accurately
        cos.append(np.cos(angle).astype(np.float32))
        sin.append(np.sin(angle).astype(np.float32))
        index.append(rows.reshape(positions.shape[0], -1).astype(np.int32))
    tables: Any = (tuple(cos), tuple(sin), np.stack(index, axis=-1))  # NumPy's, made on the host
    return Rotary(*tables)


def rotary_tables(
    config: DiTConfig, video_positions: np.ndarray | None, audio_positions: np.ndarray | None
) -> dict[str, Rotary | None]:
    """The four tables of a forward pass (5.4): "video", "audio", and "video_cross", "audio_cross" when both are given.

    Positions: (B, 3, T, 2) seconds, pixel rows, pixel columns; (B, 1, A, 2) seconds. The cross tables know the time
    axis alone, always the middle of start and end, and are as wide as the audio stream.
    """
    theta, precision = config.positional_embedding_theta, config.frequencies_precision
    own: dict[str, Rotary | None] = {}
    cross: dict[str, Rotary | None] = {"video_cross": None, "audio_cross": None}
    limit = max(config.positional_embedding_max_pos[0], config.audio_positional_embedding_max_pos[0])
    both = video_positions is not None and audio_positions is not None
    given: dict[Modality, Any] = {"video": video_positions, "audio": audio_positions}
    for modality, positions in given.items():
        if positions is None:
            own[modality] = None
            continue
        sizes = config.stream(modality)
        own[modality] = rotary(positions, sizes.width, sizes.max_pos, theta, precision, config.use_middle_indices_grid)
        if both:
            width = config.audio_cross_attention_dim
            cross[f"{modality}_cross"] = rotary(positions[:, :1], width, (limit,), theta, precision)
    return own | cross


def gather_tables(rotary: Rotary, heads: int, head_dim: int) -> tuple[Array, Array]:
    """Cosines and sines of every token, (B or 1, T, N, K/2) float32 each: head n owns K/2 consecutive frequencies.

    Frequencies of the axes interleave (axis fastest); the front is padded with cos 1, sin 0 up to the full width
    (5.2). In the interleaved layout (5.3) every entry serves two neighbouring channels, so the same table serves it.
    """
    cos = _gather(rotary.cos, rotary.index, heads, head_dim, 1.0)
    return cos, _gather(rotary.sin, rotary.index, heads, head_dim, 0.0)


def _gather(tables: tuple[Array, ...], index: Array, heads: int, head_dim: int, front: float) -> Array:
    parts = [jnp.asarray(table)[index[..., axis]] for axis, table in enumerate(tables)]  # each (B, T, F)
    stacked = jnp.stack(parts, axis=-1)  # (B, T, F, axes)
    flat = stacked.reshape(*index.shape[:2], stacked.shape[2] * stacked.shape[3])
    missing = heads * head_dim // 2 - flat.shape[-1]
    flat = jnp.pad(flat, ((0, 0), (0, 0), (missing, 0)), constant_values=front)
    return flat.reshape(*index.shape[:2], heads, head_dim // 2)  # (B, T, N, K/2)
