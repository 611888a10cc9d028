"""Attention whose keys are sharded over the mesh axis `context`, forward and backward, without gathering them.

Four forms. ring: keys travel (ring.py). ulysses: heads are traded for tokens (ulysses.py). hybrid: trade inside groups
of neighbours, ring across the groups, where the heads alone do not suffice. merged: the queries are replicated, every
device attends to its own keys, and the partial results are merged in float32.

Each half is its own `shard_map`, so nothing here depends on how one is transposed. Letters: n devices on the axis,
h in a group, r = n / h groups; T and S tokens in all.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from ltx_jax.errors import require
from ltx_jax.kernels.local import Kernel
from ltx_jax.kernels.ring import Ring, ring_backward, ring_forward
from ltx_jax.kernels.sharded import mask_places
from ltx_jax.kernels.softmax import row_products
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.ulysses import Exchange
from ltx_jax.parallel.rules import spec as partition

Array = jax.Array
AXIS = "context"


@dataclasses.dataclass(frozen=True)
class ContextPlan:
    """How one call runs on a mesh (hashable).

    exchange and ring factor the axis. pieces: parts of the heads, each traded and attended to on its own, so that the
    trade of one hides behind the kernel of another. merged: the queries are replicated.
    """

    kernel: Kernel
    mesh: Any
    exchange: Exchange
    ring: Ring
    pieces: int = 1
    merged: bool = False
    batch: Any = None  # entries of the batch and head axes in a PartitionSpec
    heads: Any = None

    @property
    def queries(self) -> PartitionSpec:
        """Where q and the output (B, T, N, K) lie."""
        return PartitionSpec(self.batch, None if self.merged else AXIS, self.heads, None)

    @property
    def keys(self) -> PartitionSpec:
        """Where k and v (B, S, N, K) lie."""
        return PartitionSpec(self.batch, AXIS, self.heads, None)

    @property
    def statistics(self) -> PartitionSpec:
        """Where the log-sum-exp (B, N, T) lies."""
        return PartitionSpec(self.batch, self.heads, None if self.merged else AXIS)

    @property
    def saved(self) -> Any:
        """Where what the backward pass reads lies: q, k, v, the output and the log-sum-exp of every piece."""
        return ((self.queries, self.keys, self.keys, self.queries, self.statistics),) * self.pieces

    def piece(self, x: Array, number: int) -> Array:
        """(B, T, N, K) -> (B, T, N / pieces, K)."""
        heads = x.shape[2] // self.pieces
        return x[:, :, number * heads : (number + 1) * heads]

    def mask(self, mask: Mask) -> Any:
        """Where the parts of a mask lie: key positions whole on every device, as masks of keys are small."""
        return mask_places(mask, self.batch, self.heads)


def make_plan(kernel: Kernel, q: Array, k: Array, spec: AttentionSpec, mesh: Any, fits: Any) -> ContextPlan | None:
    """The plan for q: (B, T, N, K) and k: (B, S, N, K), or None where keys do not lie on the axis.

    fits: given a number of heads per device, whether the kernel takes it. "auto" trades as many heads as divide both
    and leaves the rest to the ring: it moves the fewest bytes. Raises UserError when `spec.context` names a form that
    the shapes do not allow.
    """
    if mesh.empty or mesh.shape.get(AXIS, 1) == 1 or spec.context == "gather":
        return None
    n = mesh.shape[AXIS]
    batch, on_keys, heads, _ = partition(("batch", spec.key_tokens, "act_heads", None), k.shape, mesh)
    if on_keys != AXIS or spec.causal:
        return None
    lies = functools.partial(ContextPlan, kernel, mesh, batch=batch, heads=heads)
    if partition((spec.query_tokens,), q.shape[1:2], mesh)[0] != AXIS:
        return lies(Exchange(AXIS, n, 1), Ring(AXIS, 1, n), merged=True)
    axes = (heads,) if isinstance(heads, str) else heads or ()
    own = q.shape[2] // math.prod(mesh.shape[a] for a in axes)
    size = _group(own, n, spec.context, fits)
    left = own // size
    pieces = 2 if size > 1 and left % 2 == 0 and fits(left // 2) else 1
    return lies(Exchange(AXIS, n, size), Ring(AXIS, n // size, size), pieces)


def _group(heads: int, devices: int, form: str, fits: Any) -> int:
    """Devices that trade heads."""
    allowed = [h for h in range(1, devices + 1) if devices % h == heads % h == 0 and (h == 1 or fits(heads // h))]
    if form == "ring":
        return 1
    if form == "ulysses":
        require(
            devices in allowed,
            f"All-to-all attention over {devices} devices needs heads that they divide, not {heads} on a device; "
            "name 'hybrid' or 'ring', or leave the choice at 'auto'.",
        )
        return devices
    if form == "hybrid":
        between = [h for h in allowed if 1 < h < devices]
        require(
            len(between) > 0,
            f"Groups that trade some of {heads} heads and are smaller than {devices} devices do not exist; "
            "name 'ulysses' or 'ring', or leave the choice at 'auto'.",
        )
        return between[-1]
    return allowed[-1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(plan: ContextPlan, q: Array, k: Array, v: Array, mask: Mask) -> Array:
    """softmax(scale q k^T + bias) v. q: (B, T, N, K); k, v: (B, S, N, K). Returns (B, T, N, K) in q's dtype.

    Differentiable in q, k, v (not in the bias).
    """
    return _attend_forward(plan, q, k, v, mask)[0]


def _attend_forward(plan: ContextPlan, q: Array, k: Array, v: Array, mask: Mask) -> tuple[Array, Any]:
    run = jax.shard_map(
        functools.partial(_merged_forward if plan.merged else _forward, plan),
        mesh=plan.mesh,
        in_specs=(plan.queries, plan.keys, plan.keys, plan.mask(mask)),
        out_specs=(plan.queries, plan.saved),
        check_vma=False,  # a kernel does not say over which axes its output varies
    )
    out, saved = run(q, k, v, mask)
    return out, (saved, mask)


def _attend_backward(plan: ContextPlan, residuals: Any, d_out: Array) -> tuple[Any, ...]:
    saved, mask = residuals
    run = jax.shard_map(
        functools.partial(_merged_backward if plan.merged else _backward, plan),
        mesh=plan.mesh,
        in_specs=(plan.saved, plan.mask(mask), plan.queries),
        out_specs=(plan.queries, plan.keys, plan.keys),
        check_vma=False,
    )
    return (*run(saved, mask, d_out), None)


attend.defvjp(_attend_forward, _attend_backward)


def _forward(plan: ContextPlan, q: Array, k: Array, v: Array, mask: Mask) -> tuple[Array, Any]:
    """One device's part. What is saved keeps the traded layout, (B, h T, N / h, K), in the place of (B, T, N, K)."""
    outs, saved = [], []
    for i in range(plan.pieces):
        traded = [plan.exchange.to_heads(plan.piece(x, i)) for x in (q, k, v)]
        out, lse = ring_forward(plan.kernel, plan.ring, *traded, _mask_of(plan, mask, i, *traded[:2]))
        out, lse = checkpoint_name(out, "attended"), checkpoint_name(lse, "attended")
        outs.append(plan.exchange.to_tokens(out))
        saved.append((*traded, out, lse))
    return jnp.concatenate(outs, axis=2), tuple(saved)


def _backward(plan: ContextPlan, saved: Any, mask: Mask, d_out: Array) -> tuple[Array, ...]:
    found = []
    for i, (q, k, v, out, lse) in enumerate(saved):
        d = plan.exchange.to_heads(plan.piece(d_out, i))
        mask_of, delta = _mask_of(plan, mask, i, q, k), row_products(out, d)
        gradients = ring_backward(plan.kernel, plan.ring, q, k, v, mask_of, lse, delta, d)
        found.append([plan.exchange.to_tokens(x) for x in gradients])
    return tuple(jnp.concatenate(parts, axis=2) for parts in zip(*found, strict=True))


def _merged_forward(plan: ContextPlan, q: Array, k: Array, v: Array, mask: Mask) -> tuple[Array, Any]:
    """All queries against this device's keys, and the sum over devices, each by its share of the softmax."""
    own = _columns(mask, jax.lax.axis_index(AXIS), k.shape[1])
    out, lse = plan.kernel.forward(q, k, v, own)
    whole = jax.nn.logsumexp(jax.lax.all_gather(lse, AXIS), axis=0)  # (B, N, T)
    share = jnp.exp(lse - whole).transpose(0, 2, 1)[..., None]  # (B, T, N, 1)
    out = jax.lax.psum(out.astype(jnp.float32) * share, AXIS).astype(q.dtype)
    out, whole = checkpoint_name(out, "attended"), checkpoint_name(whole, "attended")
    return out, ((q, k, v, out, whole),)


def _merged_backward(plan: ContextPlan, saved: Any, mask: Mask, d_out: Array) -> tuple[Array, ...]:
    q, k, v, out, lse = saved[0]
    own = _columns(mask, jax.lax.axis_index(AXIS), k.shape[1])
    dq, dk, dv = plan.kernel.backward(q, k, v, own, lse, row_products(out, d_out), d_out)
    return jax.lax.psum(dq.astype(jnp.float32), AXIS).astype(q.dtype), dk, dv


def _mask_of(plan: ContextPlan, mask: Mask, piece: int, q: Array, k: Array) -> Any:
    """The mask of this device's queries and heads as a function of the block of keys. q, k: of the piece, traded."""
    bias, queries, keys = mask.bias, q.shape[1], k.shape[1]
    if bias is not None and bias.shape[1] > 1:
        first = (piece * plan.exchange.size + plan.exchange.place()) * q.shape[2]
        bias = jax.lax.dynamic_slice_in_dim(bias, first, q.shape[2], axis=1)
    if bias is not None and bias.shape[2] > 1:
        bias = jax.lax.dynamic_slice_in_dim(bias, plan.ring.place() * queries, queries, axis=2)
    own = mask.replace(bias=bias)
    return lambda owner: _columns(own, owner, keys)


def _columns(mask: Mask, block: Array, keys: int) -> Mask:
    """The mask of block `block` of `keys` keys; a length of the whole becomes one of the block."""
    cut = lambda x, axis: None if x is None else jax.lax.dynamic_slice_in_dim(x, block * keys, keys, axis)
    length = None if mask.length is None else jnp.clip(mask.length - block * keys, 0, keys)
    return Mask(length=length, keep=cut(mask.keep, 1), bias=cut(mask.bias, 3))
