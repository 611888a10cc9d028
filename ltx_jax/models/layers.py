"""Layers that every network shares, and the one function that turns a module into shapes and axis names."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta, unfreeze

Array = jax.Array
Dtype = Any


def rms_norm(x: Array, weight: Array | None = None, eps: float = 1e-6) -> Array:
    """x / sqrt(mean(x^2, last axis) + eps), times `weight` where given; float32 inside, x's dtype out."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (y if weight is None else y * weight.astype(jnp.float32)).astype(x.dtype)


def layer_norm(x: Array, eps: float = 1e-6) -> Array:
    """(x - mean) / sqrt(var + eps) over the last axis (biased variance), no weight; float32 inside."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return y.astype(x.dtype)


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """The tanh approximation of GELU, which is what this family always means.

    The backward pass keeps x alone and computes the rest again: five arrays of the MLP's size less per layer.
    """
    return _gelu(x)


gelu.defvjp(lambda x: (_gelu(x), x), lambda x, gradient: jax.vjp(_gelu, x)[1](gradient))


def partitioned(init: Callable, *axes: str | None) -> Callable:
    """`init` whose parameter carries logical axis names (see parallel/rules.py)."""
    return nn.with_logical_partitioning(init, axes)


class Linear(nn.Module):
    """y = x @ kernel + bias over the last axis; kernel is (in, out), stored in `param_dtype`, used in `dtype`.

    axes: logical names of (in, out). Where the collection `lora` holds `a` (in, rank) and `b` (rank, out) for this
    layer, (x a) b is added.
    """

    features: int
    axes: tuple[str | None, str | None]
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param(
            "kernel", partitioned(self.kernel_init, *self.axes), (x.shape[-1], self.features), self.param_dtype
        )
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", partitioned(self.bias_init, self.axes[1]), (self.features,), self.param_dtype)
            y = y + bias.astype(self.dtype)
        if self.has_variable("lora", "a"):
            a, b = (self.get_variable("lora", name).astype(self.dtype) for name in ("a", "b"))
            y = y + (x.astype(self.dtype) @ a) @ b
        return y


def abstract_params(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Shapes and logical axes of a module's parameters: two plain trees of equal structure, nothing computed.

    Returns (ShapeDtypeStructs, tuples of axis names). Boxes (flax's partitioning metadata) exist only inside here.
    """
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))
    boxed = unfreeze(variables)["params"]
    is_box = lambda x: isinstance(x, meta.AxisMetadata)
    shapes = meta.unbox(boxed)
    axes = jax.tree.map(lambda x: tuple(x.names) if is_box(x) else (None,) * x.ndim, boxed, is_leaf=is_box)  # type: ignore[attr-defined]
    return shapes, axes


def init_params(module: nn.Module, key: Array, *args: Any, **kwargs: Any) -> Any:
    """Randomly initialised parameters as a plain nested dict (no boxes, no "params" level)."""
    return meta.unbox(unfreeze(module.init(key, *args, **kwargs)))["params"]
