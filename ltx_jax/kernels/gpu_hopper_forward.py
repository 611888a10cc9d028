"""The forward Hopper kernel.

One block: `workers` compute warpgroups of 64 queries each and one warpgroup that feeds them. Keys are walked from the
last block to the first: only the first step, which is peeled anyway, meets the ragged end. In step n a warpgroup

    issues  S = Q K_n^T  and  O += P_(n-1) V_(n-1),  waits for S alone,
    takes maximum, exponentials and sums of S while its own second product (and the other warpgroups') runs,
    waits for O, rescales it once, rounds P to 16 bits for the next step.

A ring of barriers (`turn`) lets one warpgroup at a time issue its two products, so that the softmax of one falls under
the products of the others. ptxas would move the wait for O above the arithmetic, which it may; storing the sums, which
need every exponential, to shared memory pins it below.

Main loops at the default tiles, instructions of a thread, from the machine code (counts, not clocks):

    width 128, 96 scores a step: 684, of them 32 HGMMA (8 of 64x192x16, 24 of 64x64x16), 98 MUFU (one exponential a
    score), 100 FFMA, 66 FMUL (64 rescale O), 98 FADD, 100 FMNMX, 48 F2FP, 2 STS, about 140 of addresses and barriers
    width 64, 64 scores a step: about 445, of them 12 HGMMA, 66 MUFU, 68 FFMA, 34 FMUL, 66 FADD, 68 FMNMX, 32 F2FP

that is 111 FFMA + FMUL per 64 scores at width 128 and 102 at 64. As a bound: a step of a warpgroup keeps the tensor
cores busy for 1,536 cycles at width 128 (512 at 64), the multi-function units (four lanes a cycle and quarter of a
multiprocessor) for 784 (528), the issue slots for 684 (445). With two warpgroups at width 128 the exponentials and
the rest fill about half of the products' time: the products are the bound, and only what fails to overlap keeps the
kernel from the peak. At width 64 exponentials take as long as the products (97% of the peak at perfect overlap).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ltx_jax.kernels import gpu_hopper_common as common
from ltx_jax.kernels.gpu_hopper_common import Array, Call, across
from ltx_jax.kernels.gpu_tiles import ROWS
from ltx_jax.kernels.softmax import FLOOR, HIDDEN, LN2


def forward(call: Call, q: Array, k: Array, v: Array, lengths: Any, keep: Any) -> tuple[Array, Array]:
    """q: (B, T, N, K); k, v: (B, S, N, K); lengths: (B,) int32 or None; keep: (B, padded_keys) float32 or None.

    Returns out (B, T, N, K) and the log-sum-exp of the scaled scores (B, N, padded) float32, HIDDEN where no key is
    seen; entries beyond T are those of a query of zeros.
    """
    tile = call.tile
    rows = tile.workers * ROWS

    def body(q_ref: Any, k_ref: Any, v_ref: Any, *rest: Any) -> None:
        left = list(rest)
        lengths_ref = left.pop(0) if call.limited else None
        keep_ref = left.pop(0) if call.kept else None
        out_ref, lse_ref = left
        inputs = (q_ref, k_ref, v_ref, lengths_ref, keep_ref)
        barriers = lambda arrivals, count: plgpu.Barrier(num_arrivals=arrivals, num_barriers=count)
        pl.run_scoped(
            lambda *scratch: _block(call, inputs, (out_ref, lse_ref), scratch[:5], scratch[5:]),
            common.slabs((tile.workers, call.slabs), ROWS, call.dtype),
            common.slabs((tile.slots, call.slabs), tile.keys, call.dtype),
            common.slabs((tile.slots, call.slabs), tile.keys, call.dtype),
            plgpu.SMEM((tile.workers, ROWS), jnp.float32),
            plgpu.SMEM((tile.slots, tile.keys), jnp.float32) if call.kept else None,
            barriers(call.slabs, tile.workers),  # q is here
            barriers(call.slabs + call.kept, tile.slots),  # k, and its row of `keep`
            barriers(call.slabs, tile.slots),  # v
            barriers(tile.workers, tile.slots),  # k is read
            barriers(tile.workers, tile.slots),  # v is read
            barriers(1, tile.workers),  # whose turn it is
            collective_axes="wg",
        )

    outputs = [
        jax.ShapeDtypeStruct(q.shape, q.dtype),
        jax.ShapeDtypeStruct((call.batch, call.heads, call.padded), jnp.float32),
    ]
    arguments = [x for x in (q, k, v, lengths, keep) if x is not None]
    grid = (call.batch, call.heads, -(-call.queries // rows))
    return common.run_kernel(body, "hopper_attention_forward", outputs, grid, tile.workers, arguments)


def _block(call: Call, inputs: Any, outputs: Any, buffers: Any, barriers: Any) -> None:
    """One block of the grid: who computes, who moves memory."""
    tile = call.tile
    _, k_ref, v_ref, lengths_ref, keep_ref = inputs
    _, k_smem, v_smem, _, keep_smem = buffers
    _, k_full, v_full, k_free, v_free, _ = barriers
    sample, head = lax.axis_index("batch"), lax.axis_index("heads")
    length = common.key_count(call, lengths_ref, sample)
    blocks = common.blocks_of(length, tile.keys)

    def memory() -> None:
        @pl.loop(0, blocks)
        def _(n: Any) -> None:
            slot = lax.rem(n, jnp.int32(tile.slots))
            tokens = pl.ds((blocks - 1 - n) * tile.keys, tile.keys)
            pl.when(n >= tile.slots)(lambda: plgpu.barrier_wait(k_free.at[slot]))
            common.fetch(call, k_ref, (sample, tokens, head), k_smem.at[slot], k_full.at[slot])
            if call.kept:
                plgpu.copy_gmem_to_smem(keep_ref.at[sample, tokens], keep_smem.at[slot], k_full.at[slot])
            pl.when(n >= tile.slots)(lambda: plgpu.barrier_wait(v_free.at[slot]))
            common.fetch(call, v_ref, (sample, tokens, head), v_smem.at[slot], v_full.at[slot])

    compute = lambda wg: _compute(call, wg, length, blocks, inputs[0], outputs, buffers, barriers)
    common.specialise(tile.workers, compute, memory)


class _Worker(NamedTuple):
    """What a compute warpgroup works with: its queries and row sums, the slots of keys, and the barriers."""

    call: Call
    queries: Any
    sums: Any
    k: Any
    v: Any
    keep: Any
    k_full: Any
    v_full: Any
    k_free: Any
    v_free: Any
    turn: Any  # its own in the ring
    next_turn: Any

    def masked(self, scores: Array, slot: Any) -> Array:
        """Scores with the slot's row of the key mask."""
        return scores + common.down(common.per_column(self.keep.at[slot])) if self.call.kept else scores


def _compute(
    call: Call, wg: Any, length: Any, blocks: Any, q_ref: Any, outputs: Any, buffers: Any, barriers: Any
) -> None:
    """A compute warpgroup's whole life: its 64 queries against `blocks` blocks of keys."""
    tile = call.tile
    q_smem, k_smem, v_smem, sums_smem, keep_smem = buffers
    q_full, k_full, v_full, k_free, v_free, turn = barriers
    sample, head = lax.axis_index("batch"), lax.axis_index("heads")
    queries = pl.ds((lax.axis_index("tiles") * tile.workers + wg) * ROWS, ROWS)
    mine, sums = q_smem.at[wg], sums_smem.at[wg]
    next_turn = turn.at[lax.rem(wg + 1, jnp.int32(tile.workers))]
    common.fetch(call, q_ref, (sample, queries, head), mine, q_full.at[wg])
    plgpu.barrier_wait(q_full.at[wg])
    pl.when(wg == tile.workers - 1)(lambda: plgpu.barrier_arrive(turn.at[0]))

    full_and_free = (k_full, v_full, k_free, v_free)
    worker = _Worker(call, mine, sums, k_smem, v_smem, keep_smem, *full_and_free, turn.at[wg], next_turn)
    start = _first(worker, length, blocks)
    acc, m, total, p = lax.fori_loop(0, blocks - 1, functools.partial(_step, worker), start)
    v_slot = lax.rem(blocks - 1, jnp.int32(tile.slots))
    plgpu.barrier_wait(v_full.at[v_slot])

    def last(acc_ref: Any) -> Array:
        acc_ref[...] = acc
        common.multiply_columns(call, acc_ref, p, v_smem.at[v_slot])
        return acc_ref[...]

    acc = pl.run_scoped(last, common.accumulator(call.head))
    pl.when(wg == 0)(lambda: plgpu.barrier_wait(turn.at[0]))  # the ring ends where it began
    _finish(call, (acc, m, total), mine, sums, outputs, (sample, head, queries))


def _first(worker: _Worker, length: Any, blocks: Any) -> tuple[Array, ...]:
    """The last block of `length` keys, where the walk begins: the first carry of `_step`."""
    call = worker.call

    def product(s_ref: Any) -> Array:
        common.multiply_rows(call, s_ref, worker.queries, worker.k.at[0])
        plgpu.barrier_arrive(worker.next_turn)
        scores = worker.masked(s_ref[...], 0)
        plgpu.barrier_arrive(worker.k_free.at[0])
        return scores

    plgpu.barrier_wait(worker.k_full.at[0])
    plgpu.barrier_wait(worker.turn)
    scores = pl.run_scoped(product, common.accumulator(call.tile.keys))
    if not call.kept and (call.limited or call.keys % call.tile.keys):
        scores = common.hide_tail(scores, length - (blocks - 1) * call.tile.keys)
    weights, m, total, _ = _softmax(scores, call.factor, common.full_rows(FLOOR), common.full_rows(0.0))
    return common.full_tile(call.head), m, total, weights.astype(call.dtype)


def _step(worker: _Worker, n: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
    """One block of keys. carry: the sum of values so far, maxima, sums, and the weights still to be multiplied."""
    call, (acc, m, total, p) = worker.call, carry
    k_slot = lax.rem(n + 1, jnp.int32(call.tile.slots))
    v_slot = lax.rem(n, jnp.int32(call.tile.slots))

    def products(s_ref: Any, acc_ref: Any) -> Any:
        acc_ref[...] = acc
        common.multiply_rows(call, s_ref, worker.queries, worker.k.at[k_slot])
        plgpu.barrier_wait(worker.v_full.at[v_slot])
        common.multiply_columns(call, acc_ref, p, worker.v.at[v_slot])
        plgpu.barrier_arrive(worker.next_turn)
        # The groups of the second product, one a slab, may still run.
        scores = worker.masked(plgpu.wgmma_accumulator_load(s_ref, wait_n=call.slabs), k_slot)
        plgpu.barrier_arrive(worker.k_free.at[k_slot])
        weights, top, new_total, shrink = _softmax(scores, call.factor, m, total)
        worker.sums[...] = new_total  # see the module's docstring
        new = plgpu.wgmma_accumulator_load(acc_ref, wait_n=0)
        # p is an operand of the product until here: the new weights must not be rounded into its registers before.
        new, weights, shrink = lax.optimization_barrier((new, weights, shrink))
        plgpu.barrier_arrive(worker.v_free.at[v_slot])
        return new * across(shrink, call.head), top, new_total, weights.astype(call.dtype)

    plgpu.barrier_wait(worker.k_full.at[k_slot])
    plgpu.barrier_wait(worker.turn)
    return pl.run_scoped(products, common.accumulator(call.tile.keys), common.accumulator(call.head))


def _softmax(scores: Array, c: float, m: Array, total: Array) -> tuple[Array, Array, Array, Array]:
    """Weights, new row maxima and sums, and the factor by which what was summed before shrinks; c scales for exp2."""
    top = jnp.maximum(m, scores.max(axis=1))
    shift = top * c
    weights = jnp.exp2(scores * c - across(shift, scores.shape[1]))
    shrink = jnp.exp2(m * c - shift)
    return weights, top, total * shrink + weights.sum(axis=1), shrink


def _finish(call: Call, state: Any, mine: Any, sums: Any, outputs: Any, place: Any) -> None:
    """Normalise and store the 64 rows of `state` (sum of values, row maxima, row sums) and their log-sum-exp."""
    (acc, m, total), (sample, head, queries) = state, place
    inverse = jnp.where(total > 0, 1.0 / total, 0.0)
    sums[...] = jnp.where(total > 0, (m * call.factor + jnp.log2(total)) * LN2, HIDDEN)
    common.store(call, acc * across(inverse, call.head), mine, outputs[0], (sample, queries, head))
    plgpu.copy_smem_to_gmem(sums, outputs[1].at[sample, head, queries])
    plgpu.wait_smem_to_gmem(0)
