"""Attention by blocks in plain JAX: online softmax forward, recomputing backward, memory linear in the length.

The fallback of every device and the default wherever no hand-written kernel fits. The scores of one (query block, key
block) pair are all that ever exists; the backward pass recomputes them from the saved log-sum-exp (FlashAttention's
recurrences). Lengths are cut into equal blocks; what these do not divide is padded inside and masked.

An accelerator wants all heads of a block at once. A CPU wants one head after the other ("looped"): the scores of one
head are still in its cache when they are read again, those of all heads are not.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ltx_jax.kernels.softmax import HIDDEN, row_products
from ltx_jax.kernels.spec import AttentionSpec, Mask

Array = jax.Array
BLOCK = 512  # most rows and columns of one tile of scores
LOOPED_BLOCK = 1024  # the same of one head alone: 4 MB
ALIGNED = 16  # rows of a block are a multiple: one vector of float32


def blocked_attention(q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, block: int = BLOCK) -> Array:
    """softmax(scale q k^T + bias) v. q: (B, T, N, K); k, v: (B, S, N, K). Returns (B, T, N, K) in q's dtype.

    Differentiable in q, k, v (not in the bias). A query whose keys are all hidden gives zeros and passes no gradient.
    """
    return blocked_attention_with_statistics(q, k, v, mask, spec, block)[0]


def blocked_attention_with_statistics(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, block: int = BLOCK, looped: bool = False
) -> tuple[Array, Array]:
    """As `blocked_attention`, and the log-sum-exp of each row's scores, (B, N, T) float32, HIDDEN where no key is seen.

    Both are differentiable, so that results over parts of the keys can be merged. looped: one head after the other;
    then both have the name "attended" for remat policies.
    """
    if looped:
        return _attend_looped((spec, block), q, k, v, mask)
    static, arrays = _prepare(q, k, v, mask, spec, block)
    results: Any = _attend(static, *arrays)
    out, lse = results
    return _from_blocks(out, q.shape[1]), _rows(lse, q.shape[1])


def blocked_backward(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, lse: Array, delta: Array, d_out: Array,
    block: int = BLOCK, looped: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """dq, dk, dv of rows whose log-sum-exp over all their keys, here or elsewhere, is lse: (B, N, T) float32.

    delta: rowsum(d_out out) minus the cotangent of lse, (B, N, T) float32. d_out: (B, T, N, K).
    """
    if looped:
        return _backward_looped((spec, block), q, k, v, mask, lse, delta, d_out)
    static, (q_, k_, v_, keep, bias) = _prepare(q, k, v, mask, spec, block)
    size, t = q_.shape[3], q.shape[1]
    rows = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, _ceil(t, size) - t))).reshape(*x.shape[:2], -1, size)
    rows_of = lambda x: rows(x).transpose(2, 0, 1, 3)  # (blocks, B, N, size)
    found = _backward(static, q_, k_, v_, keep, bias, rows_of(lse), rows_of(delta), _to_blocks(d_out, size))
    return tuple(_from_blocks(x, length) for x, length in zip(found, (t, k.shape[1], k.shape[1]), strict=True))  # type: ignore[return-value]


def _prepare(q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, block: int) -> tuple[Any, tuple[Any, ...]]:
    """Static settings, and (q, k, v, keep, bias) cut into blocks."""
    b, t, _, width = q.shape
    s = k.shape[1]
    scale = width**-0.5 if spec.scale is None else spec.scale
    bq, bk = block_size(t, block), block_size(s, block)
    keep = jnp.arange(_ceil(s, bk)) < s if mask.length is None else jnp.arange(_ceil(s, bk)) < mask.length[:, None]
    keep = jnp.broadcast_to(keep, (b, _ceil(s, bk)))
    if mask.keep is not None:
        keep = keep & jnp.pad(mask.keep, ((0, 0), (0, _ceil(s, bk) - s)))
    bias = None if mask.bias is None else _pad_bias(mask.bias, t, _ceil(t, bq), s, _ceil(s, bk))
    blocks = (_to_blocks(q, bq), _to_blocks(k, bk), _to_blocks(v, bk))
    return (scale, spec.causal, spec.window), (*blocks, _split(keep, bk), bias)


def block_size(length: int, most: int) -> int:
    """Rows of equal blocks of at most `most` that pad the least: 515 rows are two blocks of 272, not of 512."""
    count = math.ceil(length / most)
    return length if count == 1 else min(most, _ceil(math.ceil(length / count), ALIGNED))


def _ceil(length: int, block: int) -> int:
    return math.ceil(length / block) * block


def _to_blocks(x: Array, size: int) -> Array:
    b, t, n, width = x.shape
    x = jnp.pad(x, ((0, 0), (0, _ceil(t, size) - t), (0, 0), (0, 0)))
    return x.reshape(b, -1, size, n, width).transpose(1, 0, 3, 2, 4)  # (blocks, B, N, size, K)


def _from_blocks(x: Array, length: int) -> Array:
    _, b, n, _, width = x.shape
    return x.transpose(1, 0, 3, 2, 4).reshape(b, -1, n, width)[:, :length]  # (B, T, N, K)


def _rows(x: Array, length: int) -> Array:
    return x.transpose(1, 2, 0, 3).reshape(*x.shape[1:3], -1)[:, :, :length]  # (B, N, T)


def _split(keep: Array, size: int) -> Array:
    return keep.reshape(keep.shape[0], -1, size).transpose(1, 0, 2)  # (blocks, B, size)


def _pad_bias(bias: Array, t: int, padded_t: int, s: int, padded_s: int) -> Array:
    rows = padded_t - t if bias.shape[2] > 1 else 0
    return jnp.pad(bias.astype(jnp.float32), ((0, 0), (0, 0), (0, rows), (0, padded_s - s)))


def _scores(static: Any, q: Array, k: Array, keep: Array, bias: Array | None, i: Array, j: Array) -> Array:
    """Scores of query block i against key block j, hidden pairs at HIDDEN: float32 (B, N, bq, bk)."""
    scale, causal, window = static
    bq, bk = q.shape[2], k.shape[2]
    scores = jnp.einsum("bntk,bnsk->bnts", q, k, preferred_element_type=jnp.float32) * scale
    if bias is not None:
        piece = jax.lax.dynamic_slice_in_dim(bias, j * bk, bk, axis=3)
        piece = jax.lax.dynamic_slice_in_dim(piece, i * bq, bq, axis=2) if bias.shape[2] > 1 else piece
        scores = scores + piece
    seen = keep[:, None, None, :]
    if causal:
        ahead = (i * bq + jnp.arange(bq))[:, None] - (j * bk + jnp.arange(bk))[None, :]
        near = ahead >= 0 if window is None else (ahead >= 0) & (ahead < window)
        seen = seen & near
    return jnp.where(seen, scores, HIDDEN)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static: Any, q: Array, k: Array, v: Array, keep: Array, bias: Array | None) -> tuple[Array, Array]:
    return _forward(static, q, k, v, keep, bias)


def _forward(static: Any, q: Array, k: Array, v: Array, keep: Array, bias: Array | None) -> tuple[Array, Array]:
    """Output blocks and log-sum-exp (blocks, B, N, bq) of every query."""

    def query_block(arguments: tuple[Array, Array]) -> tuple[Array, Array]:
        i, qi = arguments

        def key_block(carry: Any, item: Any) -> tuple[Any, None]:
            accumulator, largest, total = carry
            j, kj, vj, keep_j = item
            scores = _scores(static, qi, kj, keep_j, bias, i, j)
            new = jnp.maximum(largest, jnp.max(scores, axis=-1))
            weights = jnp.where(scores > HIDDEN / 2, jnp.exp(scores - new[..., None]), 0.0)
            shrink = jnp.exp(largest - new)
            total = total * shrink + jnp.sum(weights, axis=-1)
            product = jnp.einsum("bnts,bnsk->bntk", weights.astype(vj.dtype), vj, preferred_element_type=jnp.float32)
            return (accumulator * shrink[..., None] + product, new, total), None

        start = (jnp.zeros(qi.shape, jnp.float32), jnp.full(qi.shape[:-1], HIDDEN), jnp.zeros(qi.shape[:-1]))
        (accumulator, largest, total), _ = jax.lax.scan(key_block, start, (jnp.arange(k.shape[0]), k, v, keep))
        safe = jnp.where(total > 0, total, 1.0)
        return (accumulator / safe[..., None]).astype(qi.dtype), largest + jnp.log(safe)

    return jax.lax.map(query_block, (jnp.arange(q.shape[0]), q))


def _attend_forward(static: Any, q: Array, k: Array, v: Array, keep: Array, bias: Array | None) -> tuple[Any, Any]:
    out, lse = _forward(static, q, k, v, keep, bias)
    return (out, lse), (q, k, v, keep, bias, out, lse)


def _attend_backward(static: Any, saved: Any, cotangents: tuple[Array, Array]) -> tuple[Any, ...]:
    q, k, v, keep, bias, out, lse = saved
    d_out, d_lse = cotangents
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1) - d_lse  # (blocks, B, N, bq)
    gradients = _backward(static, q, k, v, keep, bias, lse, delta, d_out)
    return (*gradients, None, None if bias is None else jnp.zeros_like(bias))


def _backward(
    static: Any, q: Array, k: Array, v: Array, keep: Array, bias: Array | None, lse: Array, delta: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """dv = P^T do; dp = do v^T; ds = P (dp - delta); dq = scale ds k; dk = scale ds^T q. All arrays in blocks."""
    scale = static[0]

    def key_block(dq: Array, item: Any) -> tuple[Array, tuple[Array, Array]]:
        j, kj, vj, keep_j = item

        def query_block(carry: Any, item: Any) -> tuple[Any, None]:
            dq, dk, dv = carry
            i, qi, do, lse_i, delta_i = item
            scores = _scores(static, qi, kj, keep_j, bias, i, j)
            p = jnp.where(scores > HIDDEN / 2, jnp.exp(scores - lse_i[..., None]), 0.0)
            f32 = dict(preferred_element_type=jnp.float32)
            dv = dv + jnp.einsum("bnts,bntk->bnsk", p.astype(do.dtype), do, **f32)
            dp = jnp.einsum("bntk,bnsk->bnts", do, vj, **f32)
            ds = (p * (dp - delta_i[..., None]) * scale).astype(qi.dtype)
            dk = dk + jnp.einsum("bnts,bntk->bnsk", ds, qi, **f32)
            dq = dq.at[i].add(jnp.einsum("bnts,bnsk->bntk", ds, kj, **f32))
            return (dq, dk, dv), None

        zeros = jnp.zeros(kj.shape, jnp.float32)
        items = (jnp.arange(q.shape[0]), q, d_out, lse, delta)
        (dq, dk, dv), _ = jax.lax.scan(query_block, (dq, zeros, zeros), items)
        return dq, (dk.astype(kj.dtype), dv.astype(vj.dtype))

    items = (jnp.arange(k.shape[0]), k, v, keep)
    dq, (dk, dv) = jax.lax.scan(key_block, jnp.zeros(q.shape, jnp.float32), items)
    return dq.astype(q.dtype), dk, dv


_attend.defvjp(_attend_forward, _attend_backward)


# --- one head after the other ----------------------------------------------------------------------------------------

Static = tuple[AttentionSpec, int]  # and the most rows and columns of a tile


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_looped(static: Static, q: Array, k: Array, v: Array, mask: Mask) -> tuple[Array, Array]:
    return _looped_forward(static, q, k, v, mask)[0]


def _looped_forward(static: Static, q: Array, k: Array, v: Array, mask: Mask) -> tuple[Any, Any]:
    spec, block = static

    def head(number: Array, results: tuple[Array, Array]) -> tuple[Array, Array]:
        here = _Head(number, q.shape[2])
        arrays = (here.of(q), here.of(k), here.of(v))
        out, lse = blocked_attention_with_statistics(*arrays, here.mask(mask), spec, block)
        return here.put(results[0], out), here.put_rows(results[1], lse)

    batch, length, heads, _ = q.shape
    empty = (jnp.zeros_like(q), jnp.zeros((batch, heads, length), jnp.float32))
    out, lse = (checkpoint_name(x, "attended") for x in jax.lax.fori_loop(0, batch * heads, head, empty))
    return (out, lse), (q, k, v, mask, out, lse)


def _looped_gradients(static: Static, saved: Any, cotangents: tuple[Array, Array]) -> tuple[Any, ...]:
    q, k, v, mask, out, lse = saved
    d_out, d_lse = cotangents
    return (*_backward_looped(static, q, k, v, mask, lse, row_products(out, d_out) - d_lse, d_out), None)


def _backward_looped(
    static: Static, q: Array, k: Array, v: Array, mask: Mask, lse: Array, delta: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    spec, block = static

    def head(number: Array, results: Any) -> Any:
        here = _Head(number, q.shape[2])
        arrays, rows = (here.of(q), here.of(k), here.of(v)), (here.rows(lse), here.rows(delta))
        found = blocked_backward(*arrays, here.mask(mask), spec, *rows, here.of(d_out), block)
        return tuple(map(here.put, results, found))

    return jax.lax.fori_loop(0, q.shape[0] * q.shape[2], head, tuple(map(jnp.zeros_like, (q, k, v))))


_attend_looped.defvjp(_looped_forward, _looped_gradients)


class _Head:
    """One head of one sample: where it lies in the arrays of all. number: sample * heads + head."""

    def __init__(self, number: Array, heads: int):
        self.sample, self.head = number // heads, number % heads

    def of(self, x: Array) -> Array:
        """(B, T, N, K) -> (1, T, 1, K)."""
        return jax.lax.dynamic_slice(x, (self.sample, 0, self.head, 0), (1, x.shape[1], 1, x.shape[3]))

    def rows(self, x: Array) -> Array:
        """(B, N, T) -> (1, 1, T)."""
        return jax.lax.dynamic_slice(x, (self.sample, self.head, 0), (1, 1, x.shape[2]))

    def put(self, x: Array, part: Array) -> Array:
        """x (B, T, N, K) with part (1, T, 1, K) in this head's place."""
        return jax.lax.dynamic_update_slice(x, part, (self.sample, 0, self.head, 0))

    def put_rows(self, x: Array, part: Array) -> Array:
        """x (B, N, T) with part (1, 1, T) in this head's place."""
        return jax.lax.dynamic_update_slice(x, part, (self.sample, self.head, 0))

    def mask(self, mask: Mask) -> Mask:
        """The part that this head sees; axes of length one serve all."""
        pick = lambda x, place, axis: jax.lax.dynamic_slice_in_dim(x, place if x.shape[axis] > 1 else 0, 1, axis)
        sample = lambda x: None if x is None else pick(x, self.sample, 0)
        bias = sample(mask.bias)
        return Mask(sample(mask.length), sample(mask.keep), None if bias is None else pick(bias, self.head, 1))
