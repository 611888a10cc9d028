"""The backward Hopper kernels: one makes dq (walking the keys), one dk and dv (walking the queries). No atomics.

Both recompute the weights p = exp2(s c - l), l the log-sum-exp in units of log2, and ds = p (do v^T - delta), delta the
row sums of do * out less the statistics' own gradient. The kernel of dk and dv holds its scores transposed, keys on
rows, so that p and ds are left operands in registers for dv += p^T do and dk += ds^T q; it needs no mask at all, since
the rows of hidden keys are dropped once at the end.

Seven products are made where five are counted as useful (both kernels recompute scores and their slopes), so that the
bound is 5 / 7 of the peak. Main loops at width 128, instructions of a thread, from the machine code: dq, 64 scores a
step: 430, of them 32 HGMMA, 64 each of MUFU, FFMA, FADD and FMUL, 32 F2FP; dk and dv, 32 scores a step: 336, of them 32
HGMMA, 32 each of MUFU, FFMA, FADD, FMUL and F2FP, 16 LDS. The products of a step take 1,536 (dq) and 1,024 cycles, the
rest fits beside them when the two warpgroups of a block alternate.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ltx_jax.kernels import gpu_hopper_common as common
from ltx_jax.kernels.gpu_hopper_common import Array, Call, across
from ltx_jax.kernels.gpu_tiles import ROWS


def backward(call: Call, q: Array, k: Array, v: Array, d_out: Array, rows: Any, lengths: Any, keep: Any) -> Any:
    """Gradients (dq, dk, dv) in the inputs' dtype.

    rows: (l, delta), each (B, N, padded) float32, zero beyond T. lengths, keep: as for the forward.
    """
    masks = [x for x in (lengths, keep) if x is not None]
    arguments = [q, k, v, d_out, *rows, *masks]
    dq = _launch_dq(call, arguments)
    dk, dv = _launch_dkv(call, arguments)
    return dq, dk, dv


def _split(call: Call, refs: tuple[Any, ...]) -> tuple[Any, Any, Any, Any]:
    """(q, k, v, do, l, delta), lengths or None, keep or None, outputs."""
    left = list(refs[6:])
    lengths = left.pop(0) if call.limited else None
    keep = left.pop(0) if call.kept else None
    return refs[:6], lengths, keep, left


def _launch_dq(call: Call, arguments: list[Array]) -> Array:
    tile = call.tile
    workers, keys, slots = tile.dq_workers, tile.dq_keys, tile.dq_slots

    def body(*refs: Any) -> None:
        inputs, lengths, keep, outputs = _split(call, refs)
        pl.run_scoped(
            lambda *scratch: _dq_block(call, (*inputs, lengths, keep), outputs[0], scratch[:7], scratch[7:]),
            common.slabs((workers, call.slabs), ROWS, call.dtype),  # q
            common.slabs((workers, call.slabs), ROWS, call.dtype),  # do
            plgpu.SMEM((workers, ROWS), jnp.float32),  # l
            plgpu.SMEM((workers, ROWS), jnp.float32),  # delta
            common.slabs((slots, call.slabs), keys, call.dtype),
            common.slabs((slots, call.slabs), keys, call.dtype),
            plgpu.SMEM((slots, keys), jnp.float32) if call.kept else None,
            plgpu.Barrier(num_arrivals=2 * call.slabs + 2, num_barriers=workers),
            plgpu.Barrier(num_arrivals=2 * call.slabs + call.kept, num_barriers=slots),
            plgpu.Barrier(num_arrivals=workers, num_barriers=slots),
            collective_axes="wg",
        )

    grid = (call.batch, call.heads, -(-call.queries // (workers * ROWS)))
    outputs = [jax.ShapeDtypeStruct(arguments[0].shape, call.dtype)]
    return common.run_kernel(body, "hopper_attention_dq", outputs, grid, workers, arguments)[0]


def _dq_block(call: Call, inputs: Any, dq_ref: Any, buffers: Any, barriers: Any) -> None:
    tile, c = call.tile, call.factor
    workers, keys, slots = tile.dq_workers, tile.dq_keys, tile.dq_slots
    q_ref, k_ref, v_ref, do_ref, l_ref, delta_ref, lengths_ref, keep_ref = inputs
    q_smem, do_smem, l_smem, delta_smem, k_smem, v_smem, keep_smem = buffers
    mine_full, full, free = barriers
    sample, head = lax.axis_index("batch"), lax.axis_index("heads")
    length = common.key_count(call, lengths_ref, sample)
    blocks = common.blocks_of(length, keys)

    def memory() -> None:
        @pl.loop(0, blocks)
        def _(n: Any) -> None:
            slot = lax.rem(n, jnp.int32(slots))
            tokens = pl.ds((blocks - 1 - n) * keys, keys)
            pl.when(n >= slots)(lambda: plgpu.barrier_wait(free.at[slot]))
            common.fetch(call, k_ref, (sample, tokens, head), k_smem.at[slot], full.at[slot])
            common.fetch(call, v_ref, (sample, tokens, head), v_smem.at[slot], full.at[slot])
            if call.kept:
                plgpu.copy_gmem_to_smem(keep_ref.at[sample, tokens], keep_smem.at[slot], full.at[slot])

    def compute(wg: Any) -> None:
        queries = pl.ds((lax.axis_index("tiles") * workers + wg) * ROWS, ROWS)
        q, do = q_smem.at[wg], do_smem.at[wg]
        common.fetch(call, q_ref, (sample, queries, head), q, mine_full.at[wg])
        common.fetch(call, do_ref, (sample, queries, head), do, mine_full.at[wg])
        plgpu.copy_gmem_to_smem(l_ref.at[sample, head, queries], l_smem.at[wg], mine_full.at[wg])
        plgpu.copy_gmem_to_smem(delta_ref.at[sample, head, queries], delta_smem.at[wg], mine_full.at[wg])
        plgpu.barrier_wait(mine_full.at[wg])
        row = plgpu.Layout.WGMMA.reduce(1)
        lse, delta = (plgpu.load(ref.at[wg], (), layout=row) for ref in (l_smem, delta_smem))

        def step(n: Any, dq: Array, tail: bool) -> Array:
            slot = lax.rem(n, jnp.int32(slots))
            plgpu.barrier_wait(full.at[slot])

            def products(s_ref: Any, dp_ref: Any) -> Array:
                common.multiply_rows(call, s_ref, q, k_smem.at[slot])
                common.multiply_rows(call, dp_ref, do, v_smem.at[slot])
                scores = plgpu.wgmma_accumulator_load(s_ref, wait_n=call.slabs)
                if call.kept:
                    scores = scores + common.down(common.per_column(keep_smem.at[slot]))
                elif tail:
                    scores = common.hide_tail(scores, length - (blocks - 1) * keys)
                p = jnp.exp2(scores * c - across(lse, keys))
                return (p * (plgpu.wgmma_accumulator_load(dp_ref, wait_n=0) - across(delta, keys))).astype(call.dtype)

            ds = pl.run_scoped(products, common.accumulator(keys), common.accumulator(keys))

            def add(dq_ref: Any) -> Array:
                dq_ref[...] = dq
                common.multiply_columns(call, dq_ref, ds, k_smem.at[slot])
                return dq_ref[...]

            dq = pl.run_scoped(add, common.accumulator(call.head))
            plgpu.barrier_arrive(free.at[slot])
            return dq

        ragged = call.limited or call.keys % keys != 0
        dq = step(jnp.int32(0), common.full_tile(call.head), ragged)
        dq = lax.fori_loop(1, blocks, lambda n, dq: step(n, dq, False), dq)
        common.store(call, dq * call.scale, q, dq_ref, (sample, queries, head))
        plgpu.wait_smem_to_gmem(0)

    common.specialise(workers, compute, memory)


def _launch_dkv(call: Call, arguments: list[Array]) -> tuple[Array, Array]:
    tile = call.tile
    workers, queries, slots = tile.dkv_workers, tile.dkv_queries, tile.dkv_slots

    def body(*refs: Any) -> None:
        inputs, lengths, keep, outputs = _split(call, refs)
        pl.run_scoped(
            lambda *scratch: _dkv_block(call, (*inputs, lengths, keep), outputs, scratch[:7], scratch[7:]),
            common.slabs((workers, call.slabs), ROWS, call.dtype),  # k
            common.slabs((workers, call.slabs), ROWS, call.dtype),  # v
            plgpu.SMEM((workers, ROWS), jnp.float32) if call.kept else None,
            common.slabs((slots, call.slabs), queries, call.dtype),  # q
            common.slabs((slots, call.slabs), queries, call.dtype),  # do
            plgpu.SMEM((slots, queries), jnp.float32),  # l
            plgpu.SMEM((slots, queries), jnp.float32),  # delta
            plgpu.Barrier(num_arrivals=2 * call.slabs + call.kept, num_barriers=workers),
            plgpu.Barrier(num_arrivals=2 * call.slabs + 2, num_barriers=slots),
            plgpu.Barrier(num_arrivals=workers, num_barriers=slots),
            collective_axes="wg",
        )

    grid = (call.batch, call.heads, -(-call.keys // (workers * ROWS)))
    outputs = [jax.ShapeDtypeStruct(arguments[1].shape, call.dtype)] * 2
    dk, dv = common.run_kernel(body, "hopper_attention_dkv", outputs, grid, workers, arguments)
    return dk, dv


def _dkv_block(call: Call, inputs: Any, outputs: Any, buffers: Any, barriers: Any) -> None:
    tile, c = call.tile, call.factor
    workers, steps, slots = tile.dkv_workers, tile.dkv_queries, tile.dkv_slots
    q_ref, k_ref, v_ref, do_ref, l_ref, delta_ref, lengths_ref, keep_ref = inputs
    k_smem, v_smem, keep_smem, q_smem, do_smem, l_smem, delta_smem = buffers
    mine_full, full, free = barriers
    sample, head = lax.axis_index("batch"), lax.axis_index("heads")
    blocks = -(-call.queries // steps)

    def memory() -> None:
        @pl.loop(0, blocks)
        def _(n: Any) -> None:
            slot = lax.rem(n, jnp.int32(slots))
            tokens = pl.ds(n * steps, steps)
            pl.when(n >= slots)(lambda: plgpu.barrier_wait(free.at[slot]))
            common.fetch(call, q_ref, (sample, tokens, head), q_smem.at[slot], full.at[slot])
            common.fetch(call, do_ref, (sample, tokens, head), do_smem.at[slot], full.at[slot])
            plgpu.copy_gmem_to_smem(l_ref.at[sample, head, tokens], l_smem.at[slot], full.at[slot])
            plgpu.copy_gmem_to_smem(delta_ref.at[sample, head, tokens], delta_smem.at[slot], full.at[slot])

    def compute(wg: Any) -> None:
        first = (lax.axis_index("tiles") * workers + wg) * ROWS
        keys = pl.ds(first, ROWS)
        k, v = k_smem.at[wg], v_smem.at[wg]
        common.fetch(call, k_ref, (sample, keys, head), k, mine_full.at[wg])
        common.fetch(call, v_ref, (sample, keys, head), v, mine_full.at[wg])
        if call.kept:
            plgpu.copy_gmem_to_smem(keep_ref.at[sample, keys], keep_smem.at[wg], mine_full.at[wg])
        plgpu.barrier_wait(mine_full.at[wg])

        def step(n: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            dk, dv = carry
            slot = lax.rem(n, jnp.int32(slots))
            plgpu.barrier_wait(full.at[slot])

            def products(s_ref: Any, dp_ref: Any) -> tuple[Array, Array]:
                common.multiply_rows(call, s_ref, k, q_smem.at[slot])
                common.multiply_rows(call, dp_ref, v, do_smem.at[slot])
                scores = plgpu.wgmma_accumulator_load(s_ref, wait_n=call.slabs)
                p = jnp.exp2(scores * c - common.down(common.per_column(l_smem.at[slot])))
                slope = plgpu.wgmma_accumulator_load(dp_ref, wait_n=0)
                ds = p * (slope - common.down(common.per_column(delta_smem.at[slot])))
                return p.astype(call.dtype), ds.astype(call.dtype)

            p, ds = pl.run_scoped(products, common.accumulator(steps), common.accumulator(steps))

            def add(dk_ref: Any, dv_ref: Any) -> tuple[Array, Array]:
                dv_ref[...] = dv
                dk_ref[...] = dk
                common.multiply_columns(call, dv_ref, p, do_smem.at[slot])
                common.multiply_columns(call, dk_ref, ds, q_smem.at[slot])
                return dk_ref[...], dv_ref[...]

            carry = pl.run_scoped(add, common.accumulator(call.head), common.accumulator(call.head))
            plgpu.barrier_arrive(free.at[slot])
            return carry

        zeros = common.full_tile(call.head)
        dk, dv = lax.fori_loop(0, blocks, step, (zeros, zeros))
        dk = dk * call.scale
        if call.kept or call.limited:
            dk, dv = _drop_hidden(call, (dk, dv), first, keep_smem.at[wg] if call.kept else None, (lengths_ref, sample))
        common.store(call, dk, k, outputs[0], (sample, keys, head))
        common.store(call, dv, v, outputs[1], (sample, keys, head))
        plgpu.wait_smem_to_gmem(0)

    common.specialise(workers, compute, memory)


def _drop_hidden(call: Call, tiles: tuple[Array, Array], first: Any, kept: Any, limit: tuple[Any, Any]) -> Any:
    """Zeros in the rows of hidden keys, whatever they hold (the weights of a query that sees nothing are infinite)."""
    if call.kept:
        visible = across(plgpu.load(kept, (), layout=plgpu.Layout.WGMMA.reduce(1)), call.head) > -1.0
    else:
        position = plgpu.broadcasted_iota(jnp.int32, (ROWS, call.head), 0, layout=plgpu.Layout.WGMMA)
        visible = position < common.key_count(call, *limit) - first
    return tuple(jnp.where(visible, x, 0.0) for x in tiles)
