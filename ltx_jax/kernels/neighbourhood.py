"""Neighbourhood attention over (frame, row, column) grids: every query sees the Kt x Kh x Kw keys around it.

Spec video_vae.md section 7. Along an axis of length L with window K the query at i sees the K keys from
start = clamp(i - K // 2, 0, L - K): at a border the window shifts inwards, it is not cut.

This is the front door: on a mesh of TPUs our kernel runs (tpu_neighbourhood.py), elsewhere the blocked form.
"""

import functools
from typing import Any

import jax

from ltx_jax.errors import require
from ltx_jax.kernels.neighbourhood_blocked import BLOCK, blocked_neighbourhood_attention
from ltx_jax.kernels.tpu_neighbourhood import tpu_neighbourhood_attention, unsupported
from ltx_jax.kernels.tpu_neighbourhood_cut import queries_for
from ltx_jax.parallel.rules import spec as partition

Array = jax.Array
Sizes = tuple[int, int, int]
AXES = ("batch", None, None, None, "act_heads", None)  # a device holds whole grids


def neighbourhood_attention(
    q: Array, k: Array, v: Array, window: Sizes, scale: float | None = None, block: Sizes = BLOCK
) -> Array:
    """softmax(scale q k^T) v over each query's window. q, k, v: (B, T, H, W, N, K). Returns q's shape and dtype.

    window: keys along (T, H, W). scale: None means 1/sqrt(K). block: queries that the blocked form handles at once
    along each axis. Scores and softmax in float32. Differentiable. The mesh's device kind decides which form runs.
    Raises UserError when an axis is shorter than its window.
    """
    grid = q.shape[1:4]
    require(len(window) == 3, f"A window has three sizes (frames, rows, columns), not {tuple(window)}.")
    require(q.shape == k.shape == v.shape, f"q {q.shape}, k {k.shape} and v {v.shape} must have the same shape.")
    require(
        all(1 <= w <= size for w, size in zip(window, grid, strict=True)),
        f"A window of {tuple(window)} does not fit in a grid of {grid} (frames, rows, columns); pad the grid first.",
    )
    sizes: Any = tuple(window)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.abstract_device.platform == "tpu":
        queries = queries_for(mesh.abstract_device.device_kind)
        places = partition(AXES, q.shape, mesh)
        local = jax.ShapeDtypeStruct(jax.sharding.NamedSharding(mesh, places).shard_shape(q.shape), q.dtype)
        if k.dtype == v.dtype == q.dtype and unsupported(local, sizes, queries) is None:
            call = functools.partial(tpu_neighbourhood_attention, window=sizes, scale=scale, queries=queries)
            if mesh.size == 1:
                return call(q, k, v)
            # check_vma: a kernel does not say over which axes its output varies
            return jax.shard_map(call, mesh=mesh, in_specs=(places,) * 3, out_specs=places, check_vma=False)(q, k, v)
    return blocked_neighbourhood_attention(q, k, v, sizes, scale, block)
