"""Kernels in one byte a number, with a scale for every output channel: what `Linear` reads in the place of an array.

A kernel W (in, out) becomes small numbers Q and scales s (out,) with W = Q s, where the largest number of a channel is
the largest of its type, and zero stays zero. Products are those of Q s in the type of the computation; "int8_dynamic"
also rounds the inputs, with a scale for every token, and multiplies whole numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
# Kinds of quantisation: the type of the numbers, and the largest of it.
KINDS: dict[str, tuple[Any, float]] = {
    "int8": (jnp.int8, 127.0),
    "int8_dynamic": (jnp.int8, 127.0),
    "fp8": (jnp.float8_e4m3fn, 448.0),
}


class Quantized(struct.PyTreeNode):
    """A kernel: values (..., in, out) of one byte, scale (..., out) float32; leading axes are layers.

    In trees of shapes, axes or shardings the fields hold those. kind: a key of KINDS.
    """

    values: Any
    scale: Any
    kind: str = struct.field(pytree_node=False, default="int8")

    def widened(self, dtype: Any) -> Array:
        """The kernel as an array (..., in, out)."""
        return (self.values.astype(jnp.float32) * self.scale[..., None, :]).astype(dtype)


def quantize(kernel: Array, kind: str) -> Quantized:
    """A kernel (..., in, out) in fewer bytes. kind: a key of KINDS."""
    dtype, _ = KINDS[kind]
    values, scale = _rounded(kernel, dtype, KINDS[kind][1], axis=-2)
    return Quantized(values, scale, kind)


def times_quantized(x: Array, kernel: Quantized, values: Array) -> Array:
    """x (..., in) @ the kernel (in, out), in x's dtype. values: those of the kernel, as the product reads them."""
    if kernel.kind != "int8_dynamic":
        return x @ kernel.replace(values=values).widened(x.dtype)
    rows, of_rows = _rounded(x, jnp.int8, KINDS[kernel.kind][1], axis=-1)
    whole = jax.lax.dot_general(
        rows, values, (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=jnp.int32
    )  # fmt: skip
    return (whole.astype(jnp.float32) * of_rows[..., None] * kernel.scale).astype(x.dtype)


def _rounded(x: Array, dtype: Any, top: float, axis: int) -> tuple[Array, Array]:
    """x as numbers of a small type whose largest is `top`, and their scales, without `axis`."""
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    scale = jnp.where(largest > 0, largest / top, 1.0)
    small = x / scale
    small = jnp.round(small) if jnp.issubdtype(dtype, jnp.integer) else jnp.clip(small, -top, top)
    return small.astype(dtype), jnp.squeeze(scale, axis)
