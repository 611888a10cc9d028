"""The forward TPU kernel of neighbourhood attention: online softmax over the frames around a block of queries.

Scores are (keys of a frame, queries): reductions over keys are plain vector operations. See tpu_neighbourhood_common.py
for the ring of frames and the mask, tpu_neighbourhood_cut.py for the blocks.

The loop is laid out as a pipeline, because the compiler keeps its order: the scores of three frames are under way while
one goes through the softmax and the one before it is multiplied with its values. Without that the same work takes 1.4
(v5e) to 1.6 times (v6e) the bundles. The probabilities are summed by rows of ones in that product. At stage 5 of the
decoder (11 x 11 x 11, bfloat16) the compiler schedules the main loop of two heads in 4,290 bundles on v5e and v5p (128
queries against 14 frames of 336 keys) and in 6,110 on v6e, 6,060 on TPU7x (256 queries against 14 frames of 432), of
which exp2 takes half. The other width is worse on each: 12,480 with 256 queries on v5e, 4,050 with 128 on v6e.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels import tpu_neighbourhood_common as common
from ltx_jax.kernels.softmax import FLOOR, NN, NT
from ltx_jax.kernels.tpu_common import dot
from ltx_jax.kernels.tpu_neighbourhood_cut import Cut

Array = jax.Array
AHEAD = 3  # frames whose scores are under way before their softmax
ONES = 16  # rows of ones below the values: bfloat16 rows in one vector register


def forward(cut: Cut, interpret: Any, statistics: bool, q: Array, k: Array, v: Array) -> tuple[Array, ...]:
    """Output in q's shape and dtype; with `statistics` also log2-sum-exp2, in the layout of `common.row_spec`, float32.

    q: (B, T, H, W, N * K), times scale and log2(e); k, v: the same with W padded to `cut.grid`.
    """
    grid, groups = common.grid_of(cut, q.shape), q.shape[4] // cut.width
    out = [jax.ShapeDtypeStruct(q.shape, q.dtype)]
    specs = [common.query_spec(cut)]
    if statistics:
        out.append(jax.ShapeDtypeStruct((q.shape[0], groups, *cut.counts, cut.pack, cut.queries), jnp.float32))
        specs.append(common.row_spec(cut))
    row = pltpu.VMEM((cut.pack, cut.queries), jnp.float32)
    return pl.pallas_call(
        functools.partial(_kernel, cut, statistics),
        grid=grid,
        in_specs=[common.query_spec(cut), *[pl.BlockSpec(memory_space=pl.ANY)] * 2],
        out_specs=specs,
        scratch_shapes=[pltpu.VMEM((cut.width, cut.queries), jnp.float32), row, row, *common.ring_shapes(cut, k.dtype)],
        out_shape=out,
        cost_estimate=common.cost(cut, q, 2, 1, [q, k, v, *out]),
        name="tpu_neighbourhood_forward",
        **common.compile_options(("parallel", "parallel", "parallel", "arbitrary", "arbitrary"), interpret),
    )(q, k, v)


def _kernel(cut: Cut, statistics: bool, q: Any, k: Any, v: Any, out: Any, *refs: Any) -> None:
    """One block of queries against its surroundings. acc: (width, queries); top, total: (pack, queries)."""
    lse, (acc, top, total, *scratch) = (refs[0], refs[1:]) if statistics else (None, refs)
    ring = common.Ring(cut, k, v, scratch)
    ring.turn()
    acc[...] = jnp.zeros_like(acc)
    top[...] = jnp.full_like(top, FLOOR)
    total[...] = jnp.zeros_like(total)
    queries = common.coded_queries(cut, common.inside(cut, q[...], ring.block), ring.block, q.dtype)
    items = [(h, slot) for h in range(cut.pack) for slot in range(cut.slots)]
    scores = lambda h, slot: dot(ring.coded[h, slot], queries[h], NT)  # (keys, queries)
    coming, done = [scores(*item) for item in items[:AHEAD]], None
    for n, (h, slot) in enumerate(items):
        s = coming.pop(0)
        if n + AHEAD < len(items):
            coming.append(scores(*items[n + AHEAD]))
        before = top[h : h + 1, :]
        now = jnp.maximum(before, jnp.max(s, axis=0, keepdims=True))
        p, shrink = jnp.exp2(s - now), jnp.exp2(before - now)
        top[h : h + 1, :] = now
        if done is not None:
            _accumulate(cut, ring, acc, total, *done)
        done = h, slot, p.astype(ring.values.dtype), shrink
    _accumulate(cut, ring, acc, total, *done)  # type: ignore[misc]
    for h in range(cut.pack):
        rows = slice(h * cut.head, (h + 1) * cut.head)
        acc[rows, :] = acc[rows, :] / total[h : h + 1, :]
        if lse is not None:
            lse[h : h + 1, :] = top[h : h + 1, :] + jnp.log2(total[h : h + 1, :])
    out[...] = acc[...].T.reshape(out.shape).astype(out.dtype)


def _accumulate(cut: Cut, ring: common.Ring, acc: Any, total: Any, h: int, slot: int, p: Array, shrink: Array) -> None:
    """Adds a frame's probabilities (keys, queries) of head h to its sum and its output."""
    rows = slice(h * cut.head, (h + 1) * cut.head)
    values = ring.values[slot, rows, :]  # (head, keys)
    product = dot(jnp.concatenate([values, jnp.ones((ONES, cut.keys), values.dtype)], axis=0), p, NN)
    total[h : h + 1, :] = total[h : h + 1, :] * shrink + product[cut.head : cut.head + 1, :]
    acc[rows, :] = acc[rows, :] * shrink + product[: cut.head, :]
