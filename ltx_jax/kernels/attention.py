"""The front door of attention: every network calls `attention`, and only here is an implementation chosen."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ltx_jax.kernels import gpu, tpu
from ltx_jax.kernels.blocked import blocked_attention
from ltx_jax.kernels.context import attend, make_plan
from ltx_jax.kernels.local import Kernel
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.sharded import kernel_on_mesh, on_mesh, query_partition
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import tile_for

Array = jax.Array
SMALL = 1024 * 1024  # query-key pairs up to which the plain form is as good and simpler to differentiate
KERNEL_SMALL = 128 * 1024  # the same against a kernel
KERNELS = {"tpu": "tpu", **dict.fromkeys(gpu.PLATFORMS, "gpu")}  # by the platform of the mesh's devices
UNSUPPORTED: dict[str, Any] = {"tpu": tpu.unsupported, "gpu": gpu.unsupported}


def attention(q: Array, k: Array, v: Array, mask: Mask = Mask(), spec: AttentionSpec = AttentionSpec()) -> Array:
    """Multi-head attention. q: (B, T, N, K); k, v: (B, S, G, K) with N a multiple of G (grouped heads are repeated).

    Returns (B, T, N, K) in q's dtype; scores and softmax statistics are float32. See AttentionSpec and Mask. The
    mesh's device kind decides between implementations, not the devices of this machine. For remat policies, the result
    (and the statistics, where the kernel is ours) has the name "attended".
    """
    groups = q.shape[2] // k.shape[2]
    if groups * k.shape[2] != q.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads are not a multiple of {k.shape[2]} key heads")
    if groups > 1:
        k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))  # contiguous: head n reads n // groups
    mesh = jax.sharding.get_abstract_mesh()
    name = _choose(q, k, spec, mesh) if spec.implementation == "auto" else spec.implementation
    if name == "reference" and not _named(spec):
        return checkpoint_name(reference_attention(q, k, v, mask, spec), "attended")
    kind = "" if mesh.empty else mesh.abstract_device.device_kind
    tile = tile_for(kind) if name == "tpu" else None
    kernel = Kernel(name, spec, tile, kind) if name in UNSUPPORTED else Kernel("blocked", spec)
    fits = lambda heads: name not in UNSUPPORTED or _takes(name, q, k, heads)
    plan = None if name == "cudnn" else make_plan(kernel, q, k, spec, mesh, fits)
    if plan is not None:
        return attend(plan, q, k, v, mask)
    alone = mesh.empty or mesh.size == 1
    if name == "tpu" and not alone:
        return kernel_on_mesh(kernel, mesh, q, k, v, mask)
    local: dict[str, Any] = {
        "reference": reference_attention,
        "blocked": blocked_attention,
        "tpu": functools.partial(tpu.tpu_attention, tile=tile),
        "gpu": functools.partial(gpu.gpu_attention, device_kind=kind),
        "cudnn": gpu.cudnn_attention,
    }
    out = local[name](q, k, v, mask, spec) if alone else on_mesh(local[name], q, k, v, mask, spec, mesh)
    return out if name == "tpu" else checkpoint_name(out, "attended")  # the TPU kernel names its own


def _named(spec: AttentionSpec) -> bool:
    """Whether the call asks for a form of context parallelism."""
    return spec.context not in ("auto", "gather")


def _choose(q: Array, k: Array, spec: AttentionSpec, mesh: Any) -> str:
    pairs = q.shape[1] * k.shape[1]
    kernel = None if mesh.empty else KERNELS.get(mesh.abstract_device.platform)
    if kernel and (pairs > KERNEL_SMALL or _named(spec)) and _fits_kernel(kernel, q, k, spec, mesh):
        return kernel
    return "reference" if pairs <= SMALL else "blocked"


def _fits_kernel(name: str, q: Array, k: Array, spec: AttentionSpec, mesh: Any) -> bool:
    """Whether one device's share of the heads is what the kernel takes."""
    heads = query_partition(q.shape, spec, mesh)[2]
    axes = (heads,) if isinstance(heads, str) else heads or ()
    share = q.shape[2] // math.prod(mesh.shape[a] for a in axes)
    return _takes(name, q, k, share)


def _takes(name: str, q: Array, k: Array, heads: int) -> bool:
    """Whether the kernel `name` takes `heads` heads of q and k."""
    local = lambda x: jax.ShapeDtypeStruct((*x.shape[:2], heads, x.shape[3]), x.dtype)
    return UNSUPPORTED[name](local(q), local(k), local(k)) is None  # type: ignore[arg-type]
