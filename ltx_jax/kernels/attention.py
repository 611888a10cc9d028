"""The front door of attention: every network calls `attention`, and only here is an implementation chosen."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from ltx_jax.kernels.blocked import blocked_attention
from ltx_jax.kernels.context import attend, make_plan
from ltx_jax.kernels.local import Kernel
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.sharded import on_mesh, query_partition
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import tile_for
from ltx_jax.kernels.tpu import tpu_attention, unsupported

Array = jax.Array
SMALL = 1024 * 1024  # query-key pairs up to which the plain form is as good and simpler to differentiate
KERNEL_SMALL = 128 * 1024  # the same against a kernel


def attention(q: Array, k: Array, v: Array, mask: Mask = Mask(), spec: AttentionSpec = AttentionSpec()) -> Array:
    """Multi-head attention. q: (B, T, N, K); k, v: (B, S, G, K) with N a multiple of G (grouped heads are repeated).

    Returns (B, T, N, K) in q's dtype; scores and softmax statistics are float32. See AttentionSpec and Mask. The
    mesh's device kind decides between implementations, not the devices of this machine.
    """
    groups = q.shape[2] // k.shape[2]
    if groups * k.shape[2] != q.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads are not a multiple of {k.shape[2]} key heads")
    if groups > 1:
        k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))  # contiguous: head n reads n // groups
    mesh = jax.sharding.get_abstract_mesh()
    name = _choose(q, k, spec, mesh) if spec.implementation == "auto" else spec.implementation
    if name == "reference" and not _named(spec):
        return reference_attention(q, k, v, mask, spec)
    tile = tile_for(mesh.abstract_device.device_kind) if name == "tpu" else None
    kernel = Kernel("tpu", spec, tile) if name == "tpu" else Kernel("blocked", spec)
    fits = (lambda heads: _takes(q, k, heads)) if name == "tpu" else (lambda heads: True)
    plan = make_plan(kernel, q, k, spec, mesh, fits)
    if plan is not None:
        return attend(plan, q, k, v, mask)
    if name == "tpu":
        return on_mesh(functools.partial(tpu_attention, tile=tile), q, k, v, mask, spec, mesh)
    local = reference_attention if name == "reference" else blocked_attention
    if mesh.empty or mesh.size == 1:
        return local(q, k, v, mask, spec)
    return on_mesh(local, q, k, v, mask, spec, mesh)


def _named(spec: AttentionSpec) -> bool:
    """Whether the call asks for a form of context parallelism."""
    return spec.context not in ("auto", "gather")


def _choose(q: Array, k: Array, spec: AttentionSpec, mesh: Any) -> str:
    pairs = q.shape[1] * k.shape[1]
    if (
        not mesh.empty
        and mesh.abstract_device.platform == "tpu"
        and (pairs > KERNEL_SMALL or _named(spec))
        and _fits_kernel(q, k, spec, mesh)
    ):
        return "tpu"
    return "reference" if pairs <= SMALL else "blocked"


def _fits_kernel(q: Array, k: Array, spec: AttentionSpec, mesh: Any) -> bool:
    """Whether one device's share of the heads is what the kernel takes."""
    heads = query_partition(q.shape, spec, mesh)[2]
    axes = (heads,) if isinstance(heads, str) else heads or ()
    share = q.shape[2] // math.prod(mesh.shape[a] for a in axes)
    return _takes(q, k, share)


def _takes(q: Array, k: Array, heads: int) -> bool:
    """Whether the TPU kernel takes `heads` heads of q and k."""
    local = lambda x: jax.ShapeDtypeStruct((*x.shape[:2], heads, x.shape[3]), x.dtype)
    return unsupported(local(q), local(k), local(k)) is None  # type: ignore[arg-type]
