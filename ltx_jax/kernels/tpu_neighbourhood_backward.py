"""The backward TPU kernel of neighbourhood attention: all three gradients from one walk over the blocks of queries.

As in tpu_backward.py: p = exp2(s - lse), dp = v do^T, ds = p (dp - delta) with delta = rowsum(do o); dv = p do,
dk = ds q and dq^T = k^T ds, with p and ds as (keys, queries). Blocks, ring and mask are the forward kernel's.

A key is seen from several columns of blocks. While its frame is in the ring its gradients are summed in VMEM; when the
frame leaves, what earlier columns left in memory, float32, is read, added to and written back. The steps of one head
run in order, so sums have one order too and nothing is atomic.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ltx_jax.kernels import tpu_neighbourhood_common as common
from ltx_jax.kernels.softmax import LN2, NN, NT
from ltx_jax.kernels.tpu_common import dot, of_head
from ltx_jax.kernels.tpu_neighbourhood_cut import Cut

Array = jax.Array


def backward(
    cut: Cut, interpret: Any, q: Array, k: Array, v: Array, out: Array, lse: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """dq in q's dtype, dk and dv in float32, in the shapes of q, k and v; dq of q as the kernel takes it.

    q, k, v: as `tpu_neighbourhood_forward.forward` takes them; out, lse: its results; d_out: like q.
    """
    sums = jnp.zeros(k.shape, jnp.float32)
    ring_sum = pltpu.VMEM((cut.slots, cut.keys, cut.width), jnp.float32)
    landing = pltpu.VMEM((cut.slots, cut.rows, cut.cols, cut.width), jnp.float32)
    queries, whole = common.query_spec(cut), pl.BlockSpec(memory_space=pl.ANY)
    results = [jax.ShapeDtypeStruct(q.shape, q.dtype)] + [jax.ShapeDtypeStruct(k.shape, jnp.float32)] * 2
    dq, dk, dv = pl.pallas_call(
        functools.partial(_kernel, cut),
        grid=common.grid_of(cut, q.shape),
        in_specs=[queries, queries, queries, common.row_spec(cut), *[whole] * 4],
        out_specs=[queries, whole, whole],
        scratch_shapes=[
            pltpu.VMEM((cut.width, cut.queries), jnp.float32),
            *[ring_sum, ring_sum, landing, landing],
            pltpu.SemaphoreType.DMA((2,)),
            pltpu.VMEM((cut.slots, cut.keys, cut.width), v.dtype),
            *common.ring_shapes(cut, k.dtype),
        ],
        out_shape=results,
        input_output_aliases={6: 1, 7: 2},
        cost_estimate=common.cost(cut, q, 5, 1, [q, k, v, out, d_out, *results]),
        name="tpu_neighbourhood_backward",
        **common.compile_options(("parallel", "parallel", "arbitrary", "arbitrary", "arbitrary"), interpret),
    )(q, out, d_out, lse, k, v, sums, sums)
    return dq, dk * LN2, dv


class _Ring(common.Ring):
    """The ring, with values as they are (`plain`), keys turned (`values`), and the sums of both gradients.

    sums: dk and dv (slots, rows * cols, width) float32. totals: the same in HBM; landing: places on the way there.
    """

    def __init__(self, cut: Cut, k: Any, v: Any, totals: Any, scratch: Any) -> None:
        dk_sum, dv_sum, dk_part, dv_part, self.total_semaphores, self.plain, *rest = scratch
        super().__init__(cut, k, v, rest)
        self.sums, self.parts, self.totals = (dk_sum, dv_sum), (dk_part, dv_part), totals

    def keep(self, slot: Array, keys: Array, values: Array) -> None:
        self.values[slot] = keys.T.astype(self.values.dtype)
        self.plain[slot] = values.astype(self.plain.dtype)
        for total in self.sums:
            total[slot] = jnp.zeros(total.shape[1:], jnp.float32)

    def fetch_totals(self) -> None:
        """Start to read what earlier columns left of the frames that leave after this step."""
        self._leaving(lambda n, frame: [copy.start() for copy in self._reads(n, frame)])

    def add_to_totals(self) -> None:
        """Add the sums of the frames that leave."""
        self._leaving(lambda n, frame: [copy.wait() for copy in self._reads(n, frame)])

        def add(n: Array, frame: Array) -> None:
            slot = jax.lax.rem(frame, self.cut.slots)
            for part, total in zip(self.parts, self.sums, strict=True):
                part[n] = part[n] + total[slot].reshape(part.shape[1:])
            for copy in self._writes(n, frame):
                copy.start()

        self._leaving(add)
        self._leaving(lambda n, frame: [copy.wait() for copy in self._writes(n, frame)])

    def _leaving(self, act: Any) -> None:
        """act(place, frame) for every frame that the next step no longer sees."""
        begin = self.cut.origin(0, self.step)
        last = self.step == pl.num_programs(4) - 1
        end = jnp.where(last, begin + self.cut.slots, self.cut.origin(0, self.step + 1))
        jax.lax.fori_loop(0, end - begin, lambda n, _: _done(act(n, begin + n)), None)

    def _reads(self, n: Array, frame: Array) -> list[Any]:
        return [pltpu.make_async_copy(total, part, sem) for total, part, sem in self._ways(n, frame)]

    def _writes(self, n: Array, frame: Array) -> list[Any]:
        return [pltpu.make_async_copy(part, total, sem) for total, part, sem in self._ways(n, frame)]

    def _ways(self, n: Array, frame: Array) -> list[tuple[Any, Any, Any]]:
        """(place in memory, place at hand, semaphore) of the totals of dk and of dv of a frame."""
        where = self.place(frame, self.column)
        return [(self.totals[i].at[where], self.parts[i].at[n], self.total_semaphores.at[i]) for i in range(2)]


def _done(_: Any) -> None:
    return None


def _kernel(
    cut: Cut, q: Any, out: Any, d_out: Any, lse: Any, k: Any, v: Any, _: Any, __: Any, dq: Any, dk: Any, dv: Any,
    *refs: Any,
) -> None:  # fmt: skip
    """One block of queries against its surroundings. acc: (width, queries), the query gradient turned."""
    acc, *scratch = refs
    ring = _Ring(cut, k, v, (dk, dv), scratch)
    ring.turn()
    ring.fetch_totals()
    acc[...] = jnp.zeros_like(acc)
    queries, grads = (common.inside(cut, x[...], ring.block) for x in (q, d_out))
    products = (common.inside(cut, out[...], ring.block) * grads).T  # (width, queries)
    coded = common.coded_queries(cut, queries, ring.block, q.dtype)
    for h in range(cut.pack):
        rows = slice(h * cut.head, (h + 1) * cut.head)
        mine, grad = (of_head(cut, x, h).astype(q.dtype) for x in (queries, grads))  # (queries, width)
        delta = jnp.sum(products[rows, :], axis=0, keepdims=True)
        pair = functools.partial(_pair, ring, h, coded[h], grad)
        coming = [pair(0)]
        for slot in range(cut.slots):
            s, dp = coming.pop(0)
            if slot + 1 < cut.slots:
                coming.append(pair(slot + 1))  # issued early, as in the forward kernel
            p = jnp.exp2(s - lse[h : h + 1, :])
            ds = (p * (dp - delta)).astype(q.dtype)
            ring.sums[1][slot] += dot(p.astype(q.dtype), grad, NN)
            ring.sums[0][slot] += dot(ds, mine, NN)
            acc[rows, :] += dot(ring.values[slot, rows, :], ds, NN)
    dq[...] = (acc[...] * LN2).T.reshape(dq.shape).astype(dq.dtype)
    ring.add_to_totals()


def _pair(ring: _Ring, h: int, coded: Array, grad: Array, slot: int) -> tuple[Array, Array]:
    """Scores and d_out v^T of a frame of keys, (keys, queries) each."""
    return dot(ring.coded[h, slot], coded, NT), dot(ring.plain[slot], grad, NT)
