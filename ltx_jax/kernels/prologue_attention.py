"""Attention that normalises, rotates and gates inside the TPU kernel, with its gradients.

Forward, the kernel reads raw q and k; prepared ones never go to memory. Backward, they are prepared again in a pass of
their own, attention's backward kernel runs on them, and the derivative of the preparation leads on to raw q, k, the
statistics and the weights. With gates g and gated output o: the ungated output's cotangent is g d_out, its row products
with that output are those of o with d_out, and the gates' gradient is the latter divided by g.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from ltx_jax.kernels.local import Kernel
from ltx_jax.kernels.prologue import Prologue, Side
from ltx_jax.kernels.sharded import attention_places, backward_on_mesh
from ltx_jax.kernels.softmax import row_products
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tpu_prepare import prepare_tiles, pull_tiles

Array = jax.Array


class Inputs(struct.PyTreeNode):
    """Arrays of one call beside its mask. q: (B, T, N, K); k, v: (B, S, N, K); gates: (B, T, N) or None."""

    q: Array
    k: Array
    v: Array
    q_side: Side
    k_side: Side
    gates: Array | None


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Norm and rotation by the TPU's kernels, on every device of `mesh` (hashable).

    tokens: where (B, T, N, K) lies, None on one device. factor: multiplied into the result.
    """

    kernel: Kernel
    mesh: Any
    tokens: PartitionSpec | None = None
    factor: float = 1.0

    def run(self, call: Any, outs: Any, x: Array, side: Side, *more: Array) -> Any:
        """call(x, side, *more) on every device; more: of the places of x; outs: where its results lie."""
        if self.tokens is None:
            return call(x, side, *more)
        places = (self.tokens, _side_places(side, self.tokens), *(self.tokens for _ in more))
        return jax.shard_map(call, mesh=self.mesh, in_specs=places, out_specs=outs, check_vma=False)(x, side, *more)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def prepared(preparation: Preparation, x: Array, side: Side) -> Array:
    """As `prologue.prepare`, split rotation, in one pass of a TPU kernel. x: (B, T, N, K). Tables get no gradient."""
    kernel = preparation.kernel
    call = lambda x, side: prepare_tiles(x, side, preparation.factor, tile=kernel.tile, interpret=kernel.interpret)
    return preparation.run(call, preparation.tokens, x, side)


def _prepared_backward(preparation: Preparation, saved: tuple[Array, Side], cotangent: Array) -> tuple[Array, Side]:
    x, side = saved
    kernel, (batch, rows, heads) = preparation.kernel, (preparation.tokens or (None,) * 3)[:3]

    def device(x: Array, side: Side, cotangent: Array) -> tuple[Array, Array, Array]:
        settings = {"tile": kernel.tile, "interpret": kernel.interpret}
        dx, d_inverse, d_weight = pull_tiles(x, side, cotangent, preparation.factor, **settings)
        return dx, _total(d_inverse, heads), _total(d_weight, batch, rows)

    outs = (preparation.tokens, PartitionSpec(batch, rows), PartitionSpec(heads, None))
    dx, d_inverse, d_weight = preparation.run(device, outs, x, side, cotangent)
    return dx, Side(d_inverse, d_weight.astype(side.weight.dtype))


prepared.defvjp(lambda preparation, x, side: (prepared(preparation, x, side), (x, side)), _prepared_backward)


def _total(x: Array, *entries: Any) -> Array:
    """The sum over the mesh axes of some entries of a PartitionSpec."""
    axes = [a for entry in entries if entry is not None for a in ((entry,) if isinstance(entry, str) else entry)]
    return jax.lax.psum(x, tuple(axes)) if axes else x


def _side_places(side: Side, tokens: PartitionSpec) -> Side:
    """Where a side's arrays lie. tokens: where (B, T, N, K) lies."""
    batch, rows, heads, _ = tokens
    table = side.table
    places: list[Any] = [PartitionSpec(batch, rows), PartitionSpec(heads, None)]
    if table is not None:
        places.append(PartitionSpec(batch if table.shape[0] > 1 else None, rows, heads))
    return Side(*places)


def _alone(mesh: Any) -> bool:
    return mesh.empty or mesh.size == 1


def fuses(name: str, spec: AttentionSpec, prologue: Prologue) -> bool:
    """Whether kernel `name` takes this prologue on its tiles.

    The GPU kernels do not: there XLA makes one pass of norm and rotation, and registers, which
    rotation in the kernel would need, are what bounds them. Interleaved pairs would have to change lanes.
    """
    return name == "tpu" and prologue.rotation == "split" and not spec.causal


def attention_with_prologue(
    kernel: Kernel, mesh: Any, q: Array, k: Array, v: Array, mask: Mask, prologue: Prologue
) -> Array:
    """gates * softmax(scale q' k'^T + bias) v of prepared q', k', on every device of `mesh` for its part.

    q: (B, T, N, K); k, v: (B, S, N, K), raw. Returns (B, T, N, K) in q's dtype. Differentiable in q, k, v and the
    prologue's weights and gates.
    """
    q_side, k_side = prologue.sides(q, k)
    return _attend(kernel, mesh, Inputs(q, k, v, q_side, k_side, prologue.gates), mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(kernel: Kernel, mesh: Any, inputs: Inputs, mask: Mask) -> Array:
    return _forward(kernel, mesh, inputs, mask)[0]


def _forward(kernel: Kernel, mesh: Any, inputs: Inputs, mask: Mask) -> tuple[Array, Any]:
    device = lambda x, mask: kernel.forward_with_prologue(x.q, x.k, x.v, (x.q_side, x.k_side), x.gates, mask)
    if not _alone(mesh):
        queries, keys, rows, places = attention_places(inputs.q.shape, mask, kernel.spec, mesh)
        sides = (_side_places(inputs.q_side, queries), _side_places(inputs.k_side, keys))
        gates = None if inputs.gates is None else PartitionSpec(*queries[:3])
        lies: Any = (queries, keys, keys, *sides, gates)
        specs = {"in_specs": (Inputs(*lies), places), "out_specs": (queries, rows)}
        device = jax.shard_map(device, mesh=mesh, **specs, check_vma=False)
    out, lse = (checkpoint_name(x, "attended") for x in device(inputs, mask))
    return out, (inputs, mask, out, lse)


def _backward(kernel: Kernel, mesh: Any, saved: Any, d_out: Array) -> tuple[Inputs, None]:
    x, mask, out, lse = saved
    scaled, factor = kernel.scaled(x.q.shape[-1])
    queries, keys, *_ = (None, None) if _alone(mesh) else attention_places(x.q.shape, mask, kernel.spec, mesh)
    q, pull_q = _prepared(Preparation(kernel, mesh, queries, factor), x.q, x.q_side)
    k, pull_k = _prepared(Preparation(kernel, mesh, keys), x.k, x.k_side)
    delta, d_gates, d_attended = row_products(out, d_out), None, d_out
    if x.gates is not None:
        gates = x.gates.astype(jnp.float32)  # (B, T, N)
        d_attended = d_out * x.gates.astype(d_out.dtype)[..., None]
        d_gates = jnp.where(gates != 0, delta.transpose(0, 2, 1) / jnp.where(gates != 0, gates, 1.0), 0.0)
        d_gates = d_gates.astype(x.gates.dtype)
    arrays = (q, k, x.v, mask, lse, delta, d_attended)
    dq, dk, dv = scaled.backward(*arrays) if _alone(mesh) else backward_on_mesh(scaled, mesh, *arrays)
    (dq, q_side), (dk, k_side) = pull_q(dq), pull_k(dk)
    return Inputs(dq, dk, dv, q_side, k_side, d_gates), None


_attend.defvjp(_forward, _backward)


def _prepared(preparation: Preparation, x: Array, side: Side) -> tuple[Any, Any]:
    """Prepared x, and the function from its cotangent to those of x and of the side (no table's)."""
    call = lambda x, inverse, weight: prepared(preparation, x, Side(inverse, weight, side.table))
    out, pull = jax.vjp(call, x, side.inverse, side.weight)

    def back(cotangent: Array) -> tuple[Array, Side]:
        dx, d_inverse, d_weight = pull(cotangent)
        return dx, Side(d_inverse, d_weight)

    return out, back
