"""Neighbourhood attention by blocks in plain JAX, for every device.

A block of b queries along an axis needs the b + K - 1 keys around it. The scores of one block against its surroundings
are all that ever exists, so memory is linear in the grid. The backward pass recomputes them and sums the gradients of
keys in block order. Letters: Q queries of a block, E keys around it, P blocks.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.kernels.softmax import HIDDEN, row_products

Array = jax.Array
Sizes = tuple[int, int, int]
BLOCK: Sizes = (4, 8, 8)  # queries of one block: the surroundings of the released windows stay a few MB a head


def blocked_neighbourhood_attention(
    q: Array, k: Array, v: Array, window: Sizes, scale: float, block: Sizes = BLOCK
) -> Array:
    """As `neighbourhood.neighbourhood_attention`, of sizes that fit. block: queries handled at once along each axis."""
    grid = q.shape[1:4]
    cut = _Cut(grid, window, tuple(min(b, size) for b, size in zip(block, grid, strict=True)))  # type: ignore
    return _attend(cut, scale, q, k, v)


def window_starts(length: int, window: int) -> np.ndarray:
    """(L,) first key of each query's window along one axis."""
    return np.clip(np.arange(length) - window // 2, 0, length - window)


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How a grid is cut into blocks of queries, each with its surroundings (all blocks alike)."""

    grid: Sizes
    window: Sizes
    block: Sizes

    @property
    def counts(self) -> Sizes:
        """Blocks along each axis."""
        return tuple(math.ceil(n / b) for n, b in zip(self.grid, self.block, strict=True))  # type: ignore

    @property
    def around(self) -> Sizes:
        """Keys of the surroundings along each axis."""
        sizes = zip(self.grid, self.block, self.window, strict=True)
        return tuple(min(n, b + w - 1) for n, b, w in sizes)  # type: ignore

    def origins(self) -> list[np.ndarray]:
        """Per axis (count,) int32: the first key of each block's surroundings."""
        sizes = zip(self.grid, self.window, self.block, self.around, self.counts, strict=True)
        return [np.clip(np.arange(c) * b - w // 2, 0, n - e).astype(np.int32) for n, w, b, e, c in sizes]

    def seen(self) -> list[np.ndarray]:
        """Per axis (count, b, e) bool: which keys of its surroundings a query sees; beyond the grid as the last."""
        result = []
        for n, w, b, e, origin in zip(self.grid, self.window, self.block, self.around, self.origins(), strict=True):
            query = np.minimum(np.arange(len(origin) * b), n - 1)
            start = window_starts(n, w)[query].reshape(-1, b, 1)
            key = origin[:, None, None] + np.arange(e)
            result.append((key >= start) & (key < start + w))
        return result

    def to_blocks(self, x: Array) -> Array:
        """(B, T, H, W, N, K) -> (P, B, Q, N, K), zeros beyond the grid."""
        (ct, ch, cw), (bt, bh, bw) = self.counts, self.block
        tails = [c * b - n for c, b, n in zip(self.counts, self.block, self.grid, strict=True)]
        x = jnp.pad(x, ((0, 0), *((0, tail) for tail in tails), (0, 0), (0, 0)))
        batch, heads = x.shape[0], x.shape[4:]
        x = x.reshape(batch, ct, bt, ch, bh, cw, bw, *heads).transpose(1, 3, 5, 0, 2, 4, 6, 7, 8)
        return x.reshape(ct * ch * cw, batch, bt * bh * bw, *heads)

    def from_blocks(self, x: Array) -> Array:
        """The reverse of `to_blocks`."""
        (ct, ch, cw), (bt, bh, bw), (t, h, w) = self.counts, self.block, self.grid
        x = x.reshape(ct, ch, cw, x.shape[1], bt, bh, bw, *x.shape[3:]).transpose(3, 0, 4, 1, 5, 2, 6, 7, 8)
        return x.reshape(x.shape[0], ct * bt, ch * bh, cw * bw, *x.shape[7:])[:, :t, :h, :w]

    def surroundings(self, x: Array, origin: Array) -> Array:
        """(B, T, H, W, N, K) -> (B, E, N, K)."""
        part = jax.lax.dynamic_slice(x, self._start(origin), (x.shape[0], *self.around, *x.shape[4:]))
        return part.reshape(x.shape[0], -1, *x.shape[4:])

    def add(self, x: Array, origin: Array, part: Array) -> Array:
        """x (B, T, H, W, N, K) with part (B, E, N, K) added to the surroundings at `origin`."""
        start, shape = self._start(origin), (x.shape[0], *self.around, *x.shape[4:])
        return jax.lax.dynamic_update_slice(x, jax.lax.dynamic_slice(x, start, shape) + part.reshape(shape), start)

    @staticmethod
    def _start(origin: Array) -> tuple[Any, ...]:
        zero = jnp.int32(0)
        return (zero, origin[0], origin[1], origin[2], zero, zero)


def _scores(cut: _Cut, scale: float, q: Array, k: Array, place: Array) -> Array:
    """Scores (B, N, Q, E) float32 of block `place`: (3,) int32, its number along each axis. q: (B, Q, N, K)."""
    scores = jnp.einsum("bqnk,benk->bnqe", q, k, preferred_element_type=jnp.float32) * scale
    t, h, w = (jnp.asarray(seen)[place[axis]] for axis, seen in enumerate(cut.seen()))
    seen = t[:, None, None, :, None, None] & h[:, None, None, :, None] & w[:, None, None, :]  # as (t, h, w) twice
    return jnp.where(seen.reshape(scores.shape[2:]), scores, HIDDEN)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(cut: _Cut, scale: float, q: Array, k: Array, v: Array) -> Array:
    return _attend_forward(cut, scale, q, k, v)[0]


def _places(cut: _Cut) -> tuple[Array, Array]:
    """(P, 3) int32 each: every block's number along each axis, and the first key of its surroundings."""
    every = lambda axes: jnp.asarray(list(itertools.product(*axes)), jnp.int32)
    return every([range(c) for c in cut.counts]), every(cut.origins())


def _attend_forward(cut: _Cut, scale: float, q: Array, k: Array, v: Array) -> tuple[Array, Any]:
    def block(item: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        queries, place, origin = item
        scores = _scores(cut, scale, queries, cut.surroundings(k, origin), place)
        lse = jax.nn.logsumexp(scores, axis=-1)  # (B, N, Q)
        weights = jnp.exp(scores - lse[..., None]).astype(v.dtype)
        return jnp.einsum("bnqe,benk->bqnk", weights, cut.surroundings(v, origin)), lse

    out, lse = jax.lax.map(block, (cut.to_blocks(q), *_places(cut)))
    return cut.from_blocks(out).astype(q.dtype), (q, k, v, out, lse)


def _attend_backward(cut: _Cut, scale: float, saved: Any, d_out: Array) -> tuple[Array, Array, Array]:
    q, k, v, out, lse = saved
    f32: dict[str, Any] = {"preferred_element_type": jnp.float32}

    def block(carry: tuple[Array, Array], item: Any) -> tuple[Any, Array]:
        dk, dv = carry
        queries, d, o, rows, place, origin = item
        keys, values = cut.surroundings(k, origin), cut.surroundings(v, origin)
        p = jnp.exp(_scores(cut, scale, queries, keys, place) - rows[..., None])
        delta = row_products(o, d)  # (B, N, Q)
        dv = cut.add(dv, origin, jnp.einsum("bnqe,bqnk->benk", p.astype(d.dtype), d, **f32))
        dp = jnp.einsum("bqnk,benk->bnqe", d, values, **f32)
        ds = (p * (dp - delta[..., None]) * scale).astype(q.dtype)
        dk = cut.add(dk, origin, jnp.einsum("bnqe,bqnk->benk", ds, queries, **f32))
        return (dk, dv), jnp.einsum("bnqe,benk->bqnk", ds, keys, **f32).astype(q.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32)
    items = (cut.to_blocks(q), cut.to_blocks(d_out), out, lse, *_places(cut))
    (dk, dv), dq = jax.lax.scan(block, (zeros, zeros), items)
    return cut.from_blocks(dq), dk.astype(k.dtype), dv.astype(v.dtype)


_attend.defvjp(_attend_forward, _attend_backward)
