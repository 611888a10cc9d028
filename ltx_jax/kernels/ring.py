"""Ring attention: keys and values travel round the devices of a mesh axis, queries stay; no device ever holds them all.

Each step issues the transfer of the next block before it attends to the present one, so that the links work while the
kernel runs. Partial results are merged in float32 in the order of the ring: the same every time. The backward pass
sends the gradients of keys and values along with them, one step behind, and home at the end.

Runs inside `jax.shard_map`. Letters: T queries and S keys of one device.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ltx_jax.kernels.local import Kernel, merge
from ltx_jax.kernels.softmax import HIDDEN
from ltx_jax.kernels.spec import Mask

Array = jax.Array
MaskOf = Callable[[Array], Mask]  # the mask of this device's queries against the keys of block `owner`


@dataclasses.dataclass(frozen=True)
class Ring:
    """`size` devices that lie `stride` apart on mesh axis `axis`; the axis holds `stride` such rings side by side."""

    axis: str
    size: int
    stride: int = 1

    def place(self) -> Array:
        """This device's number in its ring; it owns the block of keys of that number."""
        return jax.lax.axis_index(self.axis) // self.stride

    def owner(self, step: int | Array) -> Array:
        """Whose block is here after `step` transfers."""
        return jnp.mod(self.place() - step, self.size)

    def shift(self, x: Any) -> Any:
        """Every array of x to the next device."""
        devices = self.size * self.stride
        pairs = [(i, (i + self.stride) % devices) for i in range(devices)]
        return jax.tree.map(lambda y: jax.lax.ppermute(y, self.axis, pairs), x)


def ring_forward(kernel: Kernel, ring: Ring, q: Array, k: Array, v: Array, mask_of: MaskOf) -> tuple[Array, Array]:
    """Output (B, T, N, K) in q's dtype and log-sum-exp (B, N, T) float32 over the keys of the whole ring.

    q: (B, T, N, K); k, v: (B, S, N, K), this device's blocks.
    """
    if ring.size == 1:
        return kernel.forward(q, k, v, mask_of(ring.place()))
    kernel, q, _ = _scaled(kernel, q)

    def part(t: int | Array, here: Any) -> tuple[Array, Array]:
        return kernel.forward(q, *(_heads(x, k) for x in here), mask_of(ring.owner(t)))

    def step(t: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        here, total = carry
        following, found = _together(ring.shift(here), part(t, here))
        return following, merge(total, found)

    start = (jnp.zeros(q.shape, jnp.float32), jnp.full((q.shape[0], q.shape[2], q.shape[1]), HIDDEN, jnp.float32))
    here, total = jax.lax.fori_loop(0, ring.size - 1, step, ((_flat(k), _flat(v)), start))
    out, lse = merge(total, part(ring.size - 1, here))
    return out.astype(q.dtype), lse


def ring_backward(
    kernel: Kernel, ring: Ring, q: Array, k: Array, v: Array, mask_of: MaskOf, lse: Array, delta: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """dq, dk, dv in the shapes and dtypes of this device's q, k, v.

    lse: `ring_forward`'s second result; delta: `softmax.row_products` of its first with d_out: (B, T, N, K).
    """
    if ring.size == 1:
        return kernel.backward(q, k, v, mask_of(ring.place()), lse, delta, d_out)
    kernel, scaled, factor = _scaled(kernel, q)

    def part(t: int | Array, here: Any) -> tuple[Array, tuple[Array, Array]]:
        keys, values = (_heads(x, k) for x in here)
        found = kernel.backward(scaled, keys, values, mask_of(ring.owner(t)), lse, delta, d_out)
        dq, dk, dv = (_flat(x).astype(jnp.float32) for x in found)
        return dq, (dk, dv)

    add = lambda a, b: jax.tree.map(jnp.add, a, b)

    def step(t: Array, carry: Any) -> Any:
        here, dq, travelling = carry
        (following, arriving), found = _together(ring.shift((here, travelling)), part(t, here))
        return following, dq + found[0], add(arriving, found[1])

    own = (_flat(k), _flat(v))
    here, (dq, travelling) = _together(ring.shift(own), part(0, own))
    here, dq, travelling = jax.lax.fori_loop(1, ring.size - 1, step, (here, dq, travelling))
    arriving, last = _together(ring.shift(travelling), part(ring.size - 1, here))
    dk, dv = ring.shift(add(arriving, last[1]))
    dq = (dq + last[0]) * factor
    return tuple(_heads(x, like).astype(like.dtype) for x, like in ((dq, q), (dk, k), (dv, v)))  # type: ignore[return-value]


def _together(moved: Any, computed: Any) -> Any:
    """Both, neither before the other: what follows the kernel also waits for the transfer, so that a scheduler can
    hide the transfer behind nothing but the kernel."""
    return jax.lax.optimization_barrier((moved, computed))


def _scaled(kernel: Kernel, q: Array) -> tuple[Kernel, Array, float]:
    """The scale multiplied into q once instead of at every step."""
    kernel, factor = kernel.scaled(q.shape[-1])
    return kernel, (q.astype(jnp.float32) * factor).astype(q.dtype), factor


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:2], -1)  # (B, S, N * K): what travels lies as the projections made it


def _heads(x: Array, like: Array) -> Array:
    return x.reshape(like.shape)  # (B, S, N, K)
