"""What the Hopper kernels share: the description of a call, how tiles lie in shared memory, and the score masks.

Layout. q, k, v stay (B, T, N, K). A tile in shared memory is cut into slabs of 64 columns, each `rows` x 128 bytes in
the 128-byte swizzle: for the transfer engine it is a plain (rows, 64) box of the array, with the token axis whole, so
that the engine itself clips at the true length (reads give zeros, writes are dropped) whatever the length divides; for
wgmma the same bytes are (rows / 8, 1, 8, 64), the tiles of eight rows that it wants.

Units. The products are of the arrays as they come. Scale and log2(e) live in one factor c > 0: p = exp2(s c - m c),
one multiply-add and one exponential a score.

Indices are coordinates along single axes, never offsets into a flattened array: nothing overflows 32 bits until one
axis has 2^31 entries (the engine multiplies by 64-bit strides).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ltx_jax.kernels.gpu_tiles import REGISTERS, ROWS, HopperTile
from ltx_jax.kernels.softmax import LOG2E

Array = jax.Array
SLAB = 64  # columns of a slab: 128 bytes of bfloat16 or float16


@dataclasses.dataclass(frozen=True)
class Call:
    """The static half of one attention call (hashable). limited: a length per sample; kept: a row of 0 and -inf."""

    batch: int
    queries: int
    keys: int
    heads: int
    head: int
    scale: float
    limited: bool
    kept: bool
    tile: HopperTile
    dtype: Any

    @property
    def slabs(self) -> int:
        """Slabs of a row: head width / 64."""
        return self.head // SLAB

    @property
    def factor(self) -> float:
        """c of exp2(s c - m c)."""
        return self.scale * LOG2E

    @property
    def padded(self) -> int:
        """Entries of a row of statistics: T rounded up, so that whole tiles of it are moved (rows of any T would not
        start on the 16 bytes that the transfer engine needs)."""
        return -(-self.queries // 768) * 768  # 768 holds 2 and 3 workers of 64 rows, and steps up to 256

    @property
    def padded_keys(self) -> int:
        """Entries of a row of `keep`."""
        return -(-self.keys // 768) * 768


def slabs(lead: tuple[int, ...], rows: int, dtype: Any) -> Any:
    """Shared memory for matrices of `rows` x 64, as many as lead says."""
    return plgpu.SMEM((*lead, rows // 8, 1, 8, SLAB), dtype, transforms=(plgpu.SwizzleTransform(128),))


def matrix(slab: Any) -> Any:
    """A slab as wgmma takes it: (rows, 64) made of tiles of eight rows."""
    return plgpu.transform_ref(slab, plgpu.TilingTransform((8, SLAB)).undo(None))  # type: ignore[arg-type]


def turned(slab: Any) -> Any:
    """The transpose of a slab, (64, rows), for wgmma's right side."""
    return plgpu.transpose_ref(matrix(slab), (1, 0))


def box(slab: Any) -> Any:
    """A slab as the transfer engine takes it: (rows, 64)."""
    return slab.reshape(slab.shape[-4] * 8, SLAB)


def fetch(call: Call, source: Any, place: tuple[Any, Any, Any], target: Any, barrier: Any) -> None:
    """Starts the copy of rows place = (sample, token slice, head) of `source` to target (slabs, ...).

    Each slab counts as one arrival on the barrier. Tokens beyond the array read as zeros.
    """
    sample, tokens, head = place
    for s in range(call.slabs):
        columns = pl.ds(s * SLAB, SLAB)
        plgpu.copy_gmem_to_smem(source.at[sample, tokens, head, columns], box(target.at[s]), barrier)


def store(call: Call, values: Array, staging: Any, target: Any, place: tuple[Any, Any, Any]) -> None:
    """Writes values (64, K) through staging (slabs, ...) to rows `place` of target; rows beyond the array are dropped.

    Returns with the copy under way: `plgpu.wait_smem_to_gmem(0)` before staging is used again or the block ends.
    """
    sample, tokens, head = place
    plgpu.commit_smem()  # all warps of this warpgroup have read what staging held before
    for s in range(call.slabs):
        matrix(staging.at[s])[...] = values[:, s * SLAB : (s + 1) * SLAB].astype(call.dtype)
    plgpu.commit_smem()
    for s in range(call.slabs):
        plgpu.copy_smem_to_gmem(box(staging.at[s]), target.at[sample, tokens, head, pl.ds(s * SLAB, SLAB)])


def multiply_rows(call: Call, acc: Any, left: Any, right: Any) -> None:
    """acc (64, n) += left (64, K) right^T, both tiles in shared memory as slabs (slabs, ...): one group per slab."""
    for s in range(call.slabs):
        plgpu.wgmma(acc, matrix(left.at[s]), turned(right.at[s]))


def multiply_columns(call: Call, acc: Any, left: Array, right: Any) -> None:
    """acc (64, K) += left (64, n) right (n, K): left in registers, right as slabs in shared memory."""
    for s in range(call.slabs):
        part = acc if call.slabs == 1 else acc.at[:, pl.ds(s * SLAB, SLAB)]
        plgpu.wgmma(part, left, matrix(right.at[s]))


def across(row: Array, columns: int) -> Array:
    """(64,) one value a row -> (64, columns)."""
    return lax.broadcast_in_dim(row, (ROWS, columns), [0])


def down(column: Array) -> Array:
    """(n,) one value a column -> (64, n)."""
    return lax.broadcast_in_dim(column, (ROWS, column.shape[0]), [1])


def full_rows(value: float) -> Array:
    """(64,) float32, in the layout of a wgmma result's rows."""
    return plgpu.layout_cast(jnp.full((ROWS,), value, jnp.float32), plgpu.Layout.WGMMA.reduce(1))


def full_tile(columns: int) -> Array:
    """(64, columns) float32 zeros, in the layout of a wgmma result."""
    return plgpu.layout_cast(jnp.zeros((ROWS, columns), jnp.float32), plgpu.Layout.WGMMA)


def accumulator(columns: int) -> Any:
    """Registers for a wgmma result (64, columns) float32, for `pl.run_scoped`."""
    return plgpu.WGMMAAccumulatorRef((ROWS, columns))


def per_column(ref: Any) -> Array:
    """(n,) float32 of shared memory, in the layout of a wgmma result's columns."""
    return plgpu.load(ref, (), layout=plgpu.Layout.WGMMA.reduce(0))


def hide_tail(scores: Array, visible: Any) -> Array:
    """Scores (64, n) of the last block with the columns from `visible` on at -inf, whatever they hold."""
    position = plgpu.broadcasted_iota(jnp.int32, scores.shape, 1, layout=plgpu.Layout.WGMMA)
    return jnp.where(position < visible, scores, -jnp.inf)


def key_count(call: Call, lengths: Any, sample: Any) -> Any:
    """Keys of a sample, int32 scalar."""
    return lengths[sample] if call.limited else jnp.int32(call.keys)


def blocks_of(length: Any, block: int) -> Any:
    """Blocks that hold `length` tokens, one at least (an empty sample is one block, all hidden)."""
    return jnp.maximum(lax.div(length + jnp.int32(block - 1), jnp.int32(block)), 1)


def run_kernel(body: Any, name: str, out_type: list[Any], grid: tuple[int, ...], workers: int, arguments: Any) -> Any:
    """Launches body over grid (batch, heads, tiles), tiles fastest: neighbours share keys in the cache.

    Each block has `workers` compute warpgroups and one that moves memory. No barrier is inserted behind our back
    (unsafe_no_auto_barriers): `store` has the two that are needed, everything else is read only or handed over by
    mbarriers. approx_math: ex2.approx and its kind.
    """
    return plgpu.kernel(
        body,
        out_type=out_type,
        grid=grid,
        grid_names=("batch", "heads", "tiles"),
        num_threads=workers + 1,
        thread_name="wg",
        kernel_name=name,
        compiler_params=plgpu.CompilerParams(approx_math=True, unsafe_no_auto_barriers=True, reduction_scratch_bytes=0),
    )(*arguments)


def specialise(workers: int, compute: Any, memory: Any) -> None:
    """Runs compute(warpgroup) on the first `workers` warpgroups and memory() on the last, registers shared out."""
    wg = lax.axis_index("wg")
    many, few = REGISTERS[workers]

    @pl.when(wg < workers)
    def _() -> None:
        plgpu.set_max_registers(many, action="increase")
        compute(wg)

    @pl.when(wg == workers)
    def _() -> None:
        plgpu.set_max_registers(few, action="decrease")
        memory()
