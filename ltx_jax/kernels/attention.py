"""The front door of attention: every network calls `attention`, and only here is an implementation chosen."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ltx_jax.kernels import gpu, tpu
from ltx_jax.kernels.blocked import LOOPED_BLOCK, blocked_attention
from ltx_jax.kernels.context import ContextPlan, attend, make_plan
from ltx_jax.kernels.local import Kernel
from ltx_jax.kernels.prologue import Prologue, prepare
from ltx_jax.kernels.prologue_attention import Preparation, attention_with_prologue, fuses, prepared
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.sharded import kernel_on_mesh, on_mesh, query_partition
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import tile_for

Array = jax.Array
SMALL = 1024 * 1024  # query-key pairs up to which the plain form is as good and simpler to differentiate
KERNEL_SMALL = 128 * 1024  # the same against a kernel
CPU_SMALL = 16 * 1024  # the same on a CPU, where the scores of all heads must not outgrow the cache
KERNELS = {"tpu": "tpu", **dict.fromkeys(gpu.PLATFORMS, "gpu")}  # by the platform of the mesh's devices
UNSUPPORTED: dict[str, Any] = {"tpu": tpu.unsupported, "gpu": gpu.unsupported}


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Mask = Mask(),
    spec: AttentionSpec = AttentionSpec(),
    prologue: Prologue | None = None,
) -> Array:
    """Multi-head attention. q: (B, T, N, K); k, v: (B, S, G, K) with N a multiple of G (grouped heads are repeated).

    Returns (B, T, N, K) in q's dtype; scores and softmax statistics are float32. See AttentionSpec and Mask. The
    mesh's device kind decides between implementations, not the devices of this machine. For remat policies, the result
    (and the statistics, where the kernel is ours) has the name "attended".

    prologue: norm and rotation of raw q and k, and gates of the output. The TPU kernel applies them to its tiles. Keys
    sharded over `context` are visited more than once and prepared before they travel, by a kernel of its own; for other
    implementations and interleaved rotation all are plain passes.
    """
    groups = q.shape[2] // k.shape[2]
    if groups * k.shape[2] != q.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads are not a multiple of {k.shape[2]} key heads")
    if groups > 1 and prologue is not None:
        raise ValueError("A prologue wants as many key heads as query heads, for whose columns its weights are.")
    if groups > 1:
        k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))  # contiguous: head n reads n // groups
    mesh = jax.sharding.get_abstract_mesh()
    name = _choose(q, k, spec, mesh) if spec.implementation == "auto" else spec.implementation
    kind = "" if mesh.empty else mesh.abstract_device.device_kind
    kernel = Kernel("blocked", spec)
    if _on_cpu(mesh):
        kernel = Kernel("blocked", spec, block=LOOPED_BLOCK, looped=True)
    if name in UNSUPPORTED:
        kernel = Kernel(name, spec, tile_for(kind) if name == "tpu" else None, kind)  # type: ignore[arg-type]
    fits = lambda heads: name not in UNSUPPORTED or _takes(name, q, k, heads)
    whole = name == "cudnn" or (name == "reference" and not _named(spec))
    plan = None if whole else make_plan(kernel, q, k, spec, mesh, fits)
    if prologue is None:
        return _attend(name, kernel, plan, q, k, v, mask, spec, mesh)
    tiles = fuses(name, spec, prologue)
    if plan is None and tiles:
        return attention_with_prologue(kernel, mesh, q, k, v, mask, prologue)
    q_side, k_side = prologue.sides(q, k)
    if plan is not None and tiles:
        q = prepared(Preparation(kernel, mesh, plan.queries), q, q_side)
        k = prepared(Preparation(kernel, mesh, plan.keys), k, k_side)
    else:
        q, k = prepare(q, q_side, prologue.rotation), prepare(k, k_side, prologue.rotation)
    out = _attend(name, kernel, plan, q, k, v, mask, spec, mesh)
    return out if prologue.gates is None else out * prologue.gates[..., None]


def _attend(
    name: str, kernel: Kernel, plan: ContextPlan | None, q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec,
    mesh: Any,
) -> Array:  # fmt: skip
    """Attention of prepared q, k by the implementation `name`, over `context` where there is a plan for that."""
    if plan is not None:
        return attend(plan, q, k, v, mask)
    if name == "reference" and not _named(spec):
        return checkpoint_name(reference_attention(q, k, v, mask, spec), "attended")
    alone = mesh.empty or mesh.size == 1
    if name in UNSUPPORTED or (name == "blocked" and kernel.looped):  # these name their own results
        return kernel.forward(q, k, v, mask)[0] if alone else kernel_on_mesh(kernel, mesh, q, k, v, mask)
    local = {"reference": reference_attention, "blocked": blocked_attention, "cudnn": gpu.cudnn_attention}[name]
    out = local(q, k, v, mask, spec) if alone else on_mesh(local, q, k, v, mask, spec, mesh)
    return checkpoint_name(out, "attended")


def _named(spec: AttentionSpec) -> bool:
    """Whether the call asks for a form of context parallelism."""
    return spec.context not in ("auto", "gather")


def _choose(q: Array, k: Array, spec: AttentionSpec, mesh: Any) -> str:
    pairs = q.shape[1] * k.shape[1]
    kernel = None if mesh.empty else KERNELS.get(mesh.abstract_device.platform)
    if kernel and (pairs > KERNEL_SMALL or _named(spec)) and _fits_kernel(kernel, q, k, spec, mesh):
        return kernel
    return "reference" if pairs <= (CPU_SMALL if _on_cpu(mesh) else SMALL) else "blocked"


def _on_cpu(mesh: Any) -> bool:
    """Whether to choose for a CPU. A call outside any mesh is taken for one: networks always run on a mesh."""
    return mesh.empty or mesh.abstract_device.platform == "cpu"


def _fits_kernel(name: str, q: Array, k: Array, spec: AttentionSpec, mesh: Any) -> bool:
    """Whether one device's share of the heads is what the kernel takes."""
    heads = query_partition(q.shape, spec, mesh)[2]
    axes = (heads,) if isinstance(heads, str) else heads or ()
    share = q.shape[2] // math.prod(mesh.shape[a] for a in axes)
    return _takes(name, q, k, share)


def _takes(name: str, q: Array, k: Array, heads: int) -> bool:
    """Whether the kernel `name` takes `heads` heads of q and k."""
    local = lambda x: jax.ShapeDtypeStruct((*x.shape[:2], heads, x.shape[3]), x.dtype)
    return UNSUPPORTED[name](local(q), local(k), local(k)) is None
