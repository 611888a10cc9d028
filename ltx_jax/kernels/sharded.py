"""A one-device attention kernel on a mesh: every device attends its own queries to all keys of its samples and heads.

Batch, query tokens and heads stay where the rules table puts them; keys and values are whole over `context`: for text
and audio keys they are so anyway. context.py has the forms that never hold all keys of a long stream.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

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
    batch, tokens, heads, _ = query_partition(q.shape, spec, mesh)
    queries, keys = PartitionSpec(batch, tokens, heads, None), PartitionSpec(batch, None, heads, None)
    pick = lambda size, axis: axis if size > 1 else None  # axes of length one are broadcast, not split
    bias = mask.bias
    places = Mask(
        length=None if mask.length is None else PartitionSpec(batch),  # type: ignore[arg-type]
        keep=None if mask.keep is None else PartitionSpec(batch, None),  # type: ignore[arg-type]
        bias=None  # type: ignore[arg-type]
        if bias is None
        else PartitionSpec(pick(bias.shape[0], batch), pick(bias.shape[1], heads), pick(bias.shape[2], tokens), None),
    )
    run = jax.shard_map(
        lambda q, k, v, mask: local(q, k, v, mask, spec),
        mesh=mesh,
        in_specs=(queries, keys, keys, places),
        out_specs=queries,
        check_vma=False,  # a kernel does not say over which axes its output varies
    )
    return run(q, k, v, mask)
