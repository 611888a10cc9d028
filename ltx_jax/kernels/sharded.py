"""A one-device attention kernel on a mesh: every device attends its own queries to all keys of its samples and heads.

Batch, query tokens and heads stay where the rules table puts them; keys and values are whole over `context`: for text
and audio keys they are so anyway. context.py has the forms that never hold all keys of a long stream.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from ltx_jax.kernels.local import Kernel
from ltx_jax.kernels.softmax import row_products
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.parallel.rules import spec as partition

Array = jax.Array
Local = Callable[[Array, Array, Array, Mask, AttentionSpec], Array]


def query_partition(shape: tuple[int, ...], spec: AttentionSpec, mesh: Any) -> PartitionSpec:
    """How queries (B, T, N, K) lie on `mesh`; tokens stay whole where their index matters (causal masks)."""
    tokens = None if spec.causal else spec.query_tokens
    return partition(("batch", tokens, "act_heads", None), shape, mesh)


def on_mesh(local: Local, q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, mesh: Any) -> Array:
    """`local` on every device of `mesh` for its part of q: (B, T, N, K); k, v: (B, S, N, K). Returns (B, T, N, K)."""
    queries, keys, _, places = attention_places(q.shape, mask, spec, mesh)
    run = jax.shard_map(
        lambda q, k, v, mask: local(q, k, v, mask, spec),
        mesh=mesh,
        in_specs=(queries, keys, keys, places),
        out_specs=queries,
        check_vma=False,  # a kernel does not say over which axes its output varies
    )
    return run(q, k, v, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def kernel_on_mesh(kernel: Kernel, mesh: Any, q: Array, k: Array, v: Array, mask: Mask) -> Array:
    """As `on_mesh`, with gradients by the kernel's own backward half, so that a remat policy can keep what it reads.

    Differentiable in q, k, v (not in the bias).
    """
    return _kernel_forward(kernel, mesh, q, k, v, mask)[0]


def _kernel_forward(kernel: Kernel, mesh: Any, q: Array, k: Array, v: Array, mask: Mask) -> tuple[Array, Any]:
    queries, keys, rows, places = attention_places(q.shape, mask, kernel.spec, mesh)
    specs = {"in_specs": (queries, keys, keys, places), "out_specs": (queries, rows)}
    results = jax.shard_map(kernel.forward, mesh=mesh, **specs, check_vma=False)(q, k, v, mask)
    out, lse = (checkpoint_name(x, "attended") for x in results)
    return out, (q, k, v, mask, out, lse)


def _kernel_backward(kernel: Kernel, mesh: Any, saved: Any, d_out: Array) -> tuple[Any, ...]:
    q, k, v, mask, out, lse = saved
    return (*backward_on_mesh(kernel, mesh, q, k, v, mask, lse, row_products(out, d_out), d_out), None)


def backward_on_mesh(
    kernel: Kernel, mesh: Any, q: Array, k: Array, v: Array, mask: Mask, lse: Array, delta: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """`kernel.backward` on every device of `mesh`: dq, dk, dv. lse, delta: (B, N, T) float32; d_out: (B, T, N, K)."""
    queries, keys, rows, places = attention_places(q.shape, mask, kernel.spec, mesh)

    def device(*arrays: Any) -> tuple[Array, Array, Array]:
        dq, dk, dv = kernel.backward(*arrays)
        if queries[1] is not None:  # every device saw other queries
            total = jax.lax.psum((dk.astype(jnp.float32), dv.astype(jnp.float32)), queries[1])
            dk, dv = total[0].astype(k.dtype), total[1].astype(v.dtype)
        return dq, dk, dv

    inputs = (queries, keys, keys, places, rows, rows, queries)
    run = jax.shard_map(device, mesh=mesh, in_specs=inputs, out_specs=(queries, keys, keys), check_vma=False)
    dq, dk, dv = run(q, k, v, mask, lse, delta, d_out)
    return dq, dk, dv


kernel_on_mesh.defvjp(_kernel_forward, _kernel_backward)


def attention_places(
    shape: tuple[int, ...], mask: Mask, spec: AttentionSpec, mesh: Any
) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec, Mask]:
    """Where queries of `shape`, keys, statistics (B, N, T) and the parts of the mask lie."""
    batch, tokens, heads, _ = query_partition(shape, spec, mesh)
    queries, keys = PartitionSpec(batch, tokens, heads, None), PartitionSpec(batch, None, heads, None)
    return queries, keys, PartitionSpec(batch, heads, tokens), mask_places(mask, batch, heads, tokens)


def mask_places(mask: Mask, batch: Any, heads: Any, tokens: Any = None) -> Mask:
    """A mask of PartitionSpecs, by the entries of the axes of batch, heads and queries; keys are whole everywhere."""
    places: dict[str, Any] = {"length": PartitionSpec(batch), "keep": PartitionSpec(batch, None)}
    if mask.bias is not None:  # axes of length one are broadcast, not split
        entries = zip(mask.bias.shape, (batch, heads, tokens, None), strict=True)
        places["bias"] = PartitionSpec(*(entry if size > 1 else None for size, entry in entries))
    return Mask(**{name: place for name, place in places.items() if getattr(mask, name) is not None})
