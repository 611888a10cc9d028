"""What the forward and backward Triton kernels share: the static description of a call, its ranges, loads and masks.

Layout. q, k, v stay as the projections made them, (B, T, N, K): a program reads the rows of one head with a stride of
N K, so nothing is transposed or padded in memory. Rows beyond an end are masked in the load and come as zeros.

Units. Row maxima and log-sum-exps inside the kernels are in base 2 and include the scale: p = exp2(s c - m) with
c = scale log2(e), which is one multiply-add and one exp2 per score.

Indices. A pointer is the array's base plus the sum of index times stride, which Pallas computes in 64 bits for every
array of more than 2^32 bytes (2^31 elements of bfloat16); what is computed here are positions within one axis.
"""

import dataclasses
import struct
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ltx_jax.kernels.gpu_triton_tiles import Blocks, TritonTile
from ltx_jax.kernels.softmax import LOG2E

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Call:
    """The static half of one attention call (hashable). head: K. limited: a length per sample was given."""

    queries: int
    keys: int
    heads: int
    head: int
    scale: float
    causal: bool
    window: int | None
    limited: bool
    tile: TritonTile
    interpret: bool


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Blocks that a program walks, [first, last); those of [plain, rest) need no mask."""

    first: Any
    plain: Any
    rest: Any
    last: Any


def key_ranges(call: Call, blocks: Blocks, i: Array, length: Any) -> Ranges:
    """The key blocks that query block i sees."""
    bq, bk = blocks.queries, blocks.keys
    first, seen, whole = jnp.int32(0), length, length
    plain = first
    if call.causal:
        seen = jnp.minimum(length, (i + 1) * bq)
        whole = jnp.minimum(length, i * bq + 1)
    if call.window is not None:
        first = _div(jnp.maximum(i * bq - call.window + 1, 0), bk)
        plain = _div(jnp.maximum((i + 1) * bq - call.window, 0) + (bk - 1), bk)
    last = jnp.maximum(first, _div(seen + (bk - 1), bk))
    plain = jnp.clip(plain, first, last)
    return Ranges(first, plain, jnp.clip(_div(whole, bk), plain, last), last)


def query_range(call: Call, blocks: Blocks, j: Array, length: Any) -> tuple[Any, Any]:
    """[first, last) of the query blocks that see key block j."""
    bq, bk = blocks.queries, blocks.keys
    first, last = jnp.int32(0), jnp.int32(pl.cdiv(call.queries, bq))
    if call.causal:
        first = _div(j * bk, bq)
    if call.window is not None:
        last = jnp.minimum(last, _div((j + 1) * bk - 1 + call.window + (bq - 1), bq))
    if call.limited:
        last = jnp.where(j * bk < length, last, first)
    return first, jnp.maximum(first, last)


def _div(a: Any, b: int) -> Array:
    return jax.lax.div(jnp.int32(a), jnp.int32(b))  # both are never negative


def dot(call: Call, a: Array, b: Array, dimensions: Any) -> Array:
    """Product with a float32 result; float32 inputs as three TF32 products, which keeps their precision."""
    precision: Any = None
    if a.dtype == jnp.float32:
        three = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
        precision = jax.lax.Precision.HIGHEST if call.interpret else three
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def exp2(call: Call, x: Array, row: Array | None = None, c: float = 1.0, cap: bool = False) -> Array:
    """2^x, or 2^(x c - row) with row broadcast over x. cap: at most 1.

    On the card one multiply-add and one exp2 instruction, spelled out: products and sums are not contracted by the
    compiler, and the library's exp2 scales around subnormal results, which count as zero here.
    """
    if call.interpret:
        power = x if row is None else x * c - row
        return jnp.exp2(jnp.minimum(power, 0.0) if cap else power)
    lines = ["ex2.approx.ftz.f32 $0, t;"]
    if cap:
        lines.insert(0, "min.ftz.f32 t, t, 0f00000000;")
    if row is None:
        lines.insert(0, "mov.f32 t, $1;")
    else:
        lines.insert(0, f"fma.rn.ftz.f32 t, $1, 0f{struct.pack('>f', c).hex().upper()}, $2;")
    args = [x] if row is None else [x, jnp.broadcast_to(-row, x.shape)]
    return plgpu.elementwise_inline_asm(
        f"{{ .reg .f32 t; {' '.join(lines)} }}", args=args, constraints="=f" + ",f" * len(args), pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, jnp.float32)],
    )[0]  # fmt: skip


def rows(ref: Any, start: Any, size: int, below: Any = None, other: float = 0) -> Array:
    """size rows of ref (n, K) or (n,) from `start`; those where `below` (size,) is False are `other`. None: all."""
    index = (pl.ds(start, size), *(slice(None),) * (len(ref.shape) - 1))
    if below is None:
        return plgpu.load(ref.at[index])
    mask = below if len(ref.shape) == 1 else below[:, None]
    return plgpu.load(ref.at[index], mask=mask, other=other)


def below(start: Any, size: int, length: int) -> Array | None:
    """(size,) bool: which positions from `start` are inside an axis of `length`; None where blocks divide it."""
    return None if length % size == 0 else start + jnp.arange(size, dtype=jnp.int32) < length


def seen_keys(start: Any, size: int, length: Any, keep: Any) -> Array:
    """(size,) bool: which keys from `start` are visible to the sample. keep: ref (S,) int8 or None."""
    seen = start + jnp.arange(size, dtype=jnp.int32) < length
    return seen if keep is None else seen & (rows(keep, start, size, seen) > 0)


def near(call: Call, query: Any, key: Any, blocks: Blocks) -> Array:
    """(bq, bk) bool, which pairs the causal mask and the window leave."""
    ahead = (query + jnp.arange(blocks.queries, dtype=jnp.int32))[:, None] - (
        key + jnp.arange(blocks.keys, dtype=jnp.int32)
    )[None, :]
    return ahead >= 0 if call.window is None else (ahead >= 0) & (ahead < call.window)


def add_bias(call: Call, scores: Array, bias: Any, query: Any, key: Any, blocks: Blocks) -> tuple[Array, float]:
    """Plain products (bq, bk) with the bias, and the factor c that turns the result into scores in base 2.

    bias: ref (T, S) or (S,), or None: then the products stay as they are.
    """
    c = call.scale * LOG2E
    if bias is None:
        return scores, c
    columns = key + jnp.arange(blocks.keys, dtype=jnp.int32) < call.keys
    if len(bias.shape) == 1:
        piece = rows(bias, key, blocks.keys, columns)[None, :]
    else:
        inside = (query + jnp.arange(blocks.queries, dtype=jnp.int32) < call.queries)[:, None] & columns[None, :]
        piece = plgpu.load(bias.at[pl.ds(query, blocks.queries), pl.ds(key, blocks.keys)], mask=inside, other=0)
    return scores * c + piece.astype(jnp.float32) * LOG2E, 1.0


def length_of(call: Call, lengths: Any) -> Any:
    """The number of keys of this program's sample. lengths: ref (1,)."""
    return lengths[0] if call.limited else jnp.int32(call.keys)


def head_spec(length: int, width: int) -> pl.BlockSpec:
    """All rows of one head of a (B, T or S, N, K) array. The grid is (blocks, heads, batch)."""
    return pl.BlockSpec((None, length, None, width), lambda i, h, b: (b, 0, h, 0))


def block_spec(size: int, width: int) -> pl.BlockSpec:
    """One block of rows of one head of a (B, T or S, N, K) array."""
    return pl.BlockSpec((None, size, None, width), lambda i, h, b: (b, i, h, 0))


def statistic_spec(length: int) -> pl.BlockSpec:
    """One head of a statistic (B, N, T)."""
    return pl.BlockSpec((None, None, length), lambda i, h, b: (b, h, 0))


def mask_specs(call: Call, keep: Array | None, bias: Array | None) -> list[pl.BlockSpec | None]:
    """Lengths (B,), keep (B, S), bias (B or 1, N or 1, T or 1, S); None for what is absent."""
    specs: list[pl.BlockSpec | None] = [pl.BlockSpec((1,), lambda i, h, b: (b,)), None, None]
    if keep is not None:
        specs[1] = pl.BlockSpec((None, call.keys), lambda i, h, b: (b, 0))
    if bias is not None:
        many = tuple(size > 1 for size in bias.shape[:3])
        tokens = call.queries if many[2] else None
        specs[2] = pl.BlockSpec(
            (None, None, tokens, call.keys), lambda i, h, b: (b if many[0] else 0, h if many[1] else 0, 0, 0)
        )
    return specs


def options(call: Call, blocks: Blocks, batch: int, products: int, arrays: list[Any]) -> dict[str, Any]:
    """What every pallas_call here is given besides specs. products: matrix products per pair; arrays: moved once."""
    pairs = batch * call.heads * call.queries * call.keys
    if call.causal:
        pairs = pairs // 2 if call.window is None else batch * call.heads * call.queries * min(call.window, call.keys)
    moved = sum(x.size * jnp.dtype(x.dtype).itemsize for x in arrays if x is not None)
    return {
        "compiler_params": plgpu.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        "cost_estimate": pl.CostEstimate(
            flops=2 * products * pairs * call.head, transcendentals=pairs, bytes_accessed=moved
        ),
        "interpret": call.interpret,
    }
