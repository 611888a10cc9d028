"""The blocks of the 2.5 diffusion decoder (spec video_vae.md section 7); all take and return (B, T, H, W, C).

What is done to each cell alone is done one frame after the other where a stage is large: of its many wide intermediate
values only a frame's exist at a time. Attention alone sees the whole grid.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.models.layers import Array, Linear, partitioned, rms_norm
from ltx_jax.models.video_vae.diffusion_config import Sizes
from ltx_jax.models.video_vae.layers import (
    Stride,
    batch_sharded,
    depth_to_space,
    modulate,
    modulation,
    patchify,
    unpatchify,
)  # fmt: skip
from ltx_jax.models.video_vae.neighbourhood import Heads, attend, axis_tables, rope_split

AT_ONCE = 256 << 20  # bytes of a stage's widest intermediate value up to which its frames are computed together


@dataclasses.dataclass(frozen=True)
class Stage:
    """What the blocks of a stage share. slabs: columns are attended to in so many parts with replicated borders, as
    the published "chunked" evaluation does (7.2); 0: all together."""

    window: Sizes = (1, 1, 1)
    head_dim: int = 64
    slabs: int = 0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def linear(self, name: str, features: int, axes: tuple[str, str] = ("embed", "mlp"), bias: bool = True) -> Linear:
        """A linear layer; it must be made inside a compact method."""
        return Linear(features, axes, bias, self.dtype, self.param_dtype, name=name)


class ByFrames(nn.Module):
    """A module that treats every frame alike, run one frame after the other where all together are large.

    kind: the module, made of `settings`; its call takes (None, frames, *shared) and returns (None, result), both trees
    of (B, T, ...), the first of the frames being cells or pixels (B, T, H, W, C). shared: the same for every frame.
    width: numbers that it makes of a cell on the way.
    """

    kind: Callable[..., nn.Module]
    settings: tuple[Any, ...]
    width: int

    @nn.compact
    def __call__(self, frames: Any, *shared: Any) -> Any:
        x = jax.tree.leaves(frames)[0]
        if math.prod(x.shape[:4]) * self.width * x.dtype.itemsize <= AT_ONCE:
            return self.kind(*self.settings, name="each")(None, frames, *shared)[1]  # type: ignore[operator]
        scan: Any = nn.scan(
            self.kind, variable_broadcast="params", split_rngs={"params": False}, out_axes=1,
            in_axes=(1, *(nn.broadcast,) * len(shared)),
        )  # fmt: skip
        singles = jax.tree.map(lambda y: y[:, :, None], frames)  # (B, T, 1, ...), scanned over T
        result = scan(*self.settings, name="each")(None, singles, *shared)[1]
        return jax.tree.map(lambda y: y.reshape(y.shape[0], -1, *y.shape[3:]), result)


class _NormedHeads(nn.Module):
    """Cells and the time table of their frames (1, T, 2, K/2) -> q, k, v, of normed and modulated cells."""

    stage: Stage

    @nn.compact
    def __call__(self, _: None, frames: tuple[Array, Array], rows: Any, columns: Any, change: Any) -> Any:
        (x, times), s = frames, self.stage
        y = rms_norm(x, _norm_weight(self, "norm", x, s))
        y = y if change is None else modulate(y, change[1], change[0])
        return None, Heads(s.head_dim, s.dtype, s.param_dtype, name="heads")(y, (times[0], rows, columns))


class _Leave(nn.Module):
    """Cells and what attention made of them -> x + proj(out), then + mlp(norm(x)), SwiGLU without biases."""

    stage: Stage

    @nn.compact
    def __call__(self, _: None, frames: tuple[Array, Array], change: Any) -> Any:
        (x, out), s, width = frames, self.stage, frames[0].shape[-1]
        x = x + s.linear("proj", width, ("heads", "embed"))(out)
        y = rms_norm(x, _norm_weight(self, "norm", x, s))
        y = y if change is None else modulate(y, change[1], change[0])
        hidden = swiglu_width(width)
        gate, up = (s.linear(name, hidden, bias=False)(y) for name in ("w_gate", "w_up"))
        return None, x + s.linear("w_down", width, ("mlp", "embed"), bias=False)(nn.silu(gate) * up)


def swiglu_width(width: int) -> int:
    """Hidden width of a block's MLP."""
    return -(-4 * width // 16) * 16


def _norm_weight(module: nn.Module, name: str, x: Array, stage: Stage) -> Array:
    return module.param(name, partitioned(nn.initializers.ones, None), (x.shape[-1],), stage.param_dtype)


class NeighbourhoodBlock(nn.Module):
    """x + attention(norm(x)), then + mlp(norm(x)), in the form that `nn.scan` wants.

    With a context, its projection is added first, and both norms are modulated (7). The three gates of the modulation
    are not used.
    """

    stage: Stage

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, embedding: Array | None = None) -> tuple[Array, None]:
        """x: (B, T, H, W, C); context: (B, T, H, W, C'); embedding: (1 or B, 7 C) of the timestep."""
        s, width, changes = self.stage, x.shape[-1], (None, None)
        if context is not None and embedding is not None:
            x = x + s.linear("context_proj", width)(context)
            init = partitioned(nn.initializers.normal(width**-0.5), "rows", "embed")
            scale, shift, _, mlp_scale, mlp_shift, *_ = modulation(
                self.param("scale_shift_table", init, (7, width), s.param_dtype), embedding
            )
            changes = ((scale, shift), (mlp_scale, mlp_shift))
        heads = ByFrames(_NormedHeads, (s,), 3 * width, name="attend")
        out = (self._in_slabs if s.slabs else self._whole)(x, lambda y, t, h, w: heads((y, t[None]), h, w, changes[0]))
        x = ByFrames(_Leave, (s,), 2 * swiglu_width(width), name="leave")((x, out), changes[1])
        return batch_sharded(x), None

    def _whole(self, x: Array, heads: Callable[..., Any]) -> Array:
        tables = self._tables(x.shape, np.arange(x.shape[3]))
        return attend(heads(x, *tables), self.stage.window, self.stage.head_dim)

    def _in_slabs(self, x: Array, heads: Callable[..., Any]) -> Array:
        window, parts = self.stage.window, []
        halo = window[2] // 2
        for columns, seen, core in slabs(x.shape[3], self.stage.slabs, halo):
            cells = jnp.where(seen[:, None], jnp.take(x, columns, axis=3), 0)
            tables = self._tables(x.shape, core.start - halo + np.arange(len(columns)))
            out = attend(heads(cells, *tables), window, self.stage.head_dim)
            parts.append(out[:, :, :, halo : halo + core.stop - core.start])
        return jnp.concatenate(parts, axis=3)

    def _tables(self, shape: tuple[int, ...], columns: np.ndarray) -> Any:
        t, h = (np.arange(length) for length in shape[1:3])
        return axis_tables((t, h, columns), rope_split(self.stage.head_dim))


def slabs(width: int, count: int, halo: int) -> Iterator[tuple[np.ndarray, np.ndarray, slice]]:
    """The parts of `width` columns that the published "chunked" evaluation attends to one by one (7.2).

    Yields (columns, seen, core): the columns of each place of a part, copies of its outermost core column beyond the
    grid, and which of them are zeros instead (False); the columns that it answers for.
    """
    size = -(-width // count)
    for start in range(0, width, size):
        place = np.arange(start - halo, start + size + halo)
        seen = (place >= start - size) | (start == 0)  # of the part in front, and no more
        yield np.clip(place, 0, width - 1), seen, slice(start, min(start + size, width))


class Upsample(nn.Module):
    """Cells (B, T, H, W, C) -> (B, T p1, H p2, W p3, C / narrower), in the form that `ByFrames` wants."""

    stage: Stage
    stride: Stride
    narrower: int

    @nn.compact
    def __call__(self, _: None, x: Array) -> tuple[None, Array]:
        features = math.prod(self.stride) * x.shape[-1] // self.narrower
        return None, depth_to_space(self.stage.linear("proj", features)(x), self.stride)


class PixelsIn(nn.Module):
    """Pixels (B, T, h, w, 3) -> cells (B, T, H, W, C), in the form that `ByFrames` wants."""

    stage: Stage
    patch: int
    features: int

    @nn.compact
    def __call__(self, _: None, x: Array) -> tuple[None, Array]:
        return None, self.stage.linear("proj", self.features)(patchify(x, self.patch))


class PixelsOut(nn.Module):
    """Cells (B, T, H, W, C) -> pixels (B, T, h, w, 3) float32, in the form that `ByFrames` wants."""

    stage: Stage
    patch: int
    channels: int

    @nn.compact
    def __call__(self, _: None, x: Array) -> tuple[None, Array]:
        y = rms_norm(x, _norm_weight(self, "norm", x, self.stage))
        y = self.stage.linear("proj", self.channels * self.patch**2)(y)
        return None, unpatchify(y, self.patch).astype(jnp.float32)
