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

from ltx_jax.kernels.local import HIDDEN, Kernel, merge
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

    def step(t: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        here, total = carry
        following = ring.shift(here)
        return following, merge(total, kernel.forward(q, *here, mask_of(ring.owner(t))))

    start = (jnp.zeros(q.shape, jnp.float32), jnp.full((q.shape[0], q.shape[2], q.shape[1]), HIDDEN, jnp.float32))
    here, total = jax.lax.fori_loop(0, ring.size - 1, step, ((k, v), start))
    out, lse = merge(total, kernel.forward(q, *here, mask_of(ring.owner(ring.size - 1))))
    return out.astype(q.dtype), lse


def ring_backward(
    kernel: Kernel, ring: Ring, q: Array, k: Array, v: Array, mask_of: MaskOf, lse: Array, delta: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """dq, dk, dv in the shapes and dtypes of this device's q, k, v.

    lse: `ring_forward`'s second result; delta: `local.row_products` of its first with d_out: (B, T, N, K).
    """

    def part(t: int | Array, here: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        found = kernel.backward(q, *here, mask_of(ring.owner(t)), lse, delta, d_out)
        dq, dk, dv = (x.astype(jnp.float32) for x in found)
        return dq, (dk, dv)

    add = lambda a, b: jax.tree.map(jnp.add, a, b)

    def step(t: Array, carry: Any) -> Any:
        here, dq, travelling = carry
        following, arriving = ring.shift(here), ring.shift(travelling)
        found = part(t, here)
        return following, dq + found[0], add(arriving, found[1])

    if ring.size == 1:
        return kernel.backward(q, k, v, mask_of(ring.place()), lse, delta, d_out)
    following = ring.shift((k, v))
    dq, travelling = part(0, (k, v))
    here, dq, travelling = jax.lax.fori_loop(1, ring.size - 1, step, (following, dq, travelling))
    arriving = ring.shift(travelling)
    last = part(ring.size - 1, here)
    dk, dv = ring.shift(add(arriving, last[1]))
    return (dq + last[0]).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)
