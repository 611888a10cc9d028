"""Layers that every network shares, and the one function that turns a module into shapes and axis names."""

import contextvars
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta, unfreeze

from ltx_jax.models.quantized import Quantized, times_quantized
from ltx_jax.parallel import rules

Array = jax.Array
Dtype = Any
Axes = tuple[str | None, str | None]
# Set while nothing but shapes is asked for: tracing random draws would take a third of the time.
_shapes_only: contextvars.ContextVar[bool] = contextvars.ContextVar("shapes_only", default=False)
FEW_ROWS = 8  # at most so many rows turn the product round, see `_times_transposed`


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

    def begin(key: Array, shape: Any, dtype: Dtype = jnp.float32) -> Array:
        return jnp.zeros(shape, dtype) if _shapes_only.get() else init(key, shape, dtype)

    return nn.with_logical_partitioning(begin, axes)


def _gathered(kernel: Array, dtype: Dtype, axes: Axes) -> Array:
    """The kernel in `dtype` as a matmul reads it: cast on its shard, so that the gathering moves `dtype`."""
    return rules.gather_parameter(rules.constrain_divisible(kernel.astype(dtype), *axes), *axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def cast_matmul(x: Array, kernel: Array, axes: Axes) -> Array:
    """x (..., in) @ kernel (in, out) in x's dtype; the kernel is stored wider, and so its gradient is made.

    The usual gradient of a cast is made in the narrow type and summed over the chips in it. This one leaves the matmul
    in float32 and is asked for in the kernel's sharding, so that it is summed in float32 too, by scattering.
    """
    return x @ _gathered(kernel, x.dtype, axes)


def _cast_matmul_forward(x: Array, kernel: Array, axes: Axes) -> tuple[Array, tuple[Array, Array]]:
    return cast_matmul(x, kernel, axes), (x, kernel)


def _cast_matmul_backward(axes: Axes, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    rows = tuple(range(x.ndim - 1))
    # (..., in), (..., out) -> (in, out)
    of_kernel = jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())), preferred_element_type=jnp.float32)
    of_kernel = rules.constrain_divisible(of_kernel, *axes).astype(kernel.dtype)
    return gradient @ _gathered(kernel, x.dtype, axes).T, of_kernel


cast_matmul.defvjp(_cast_matmul_forward, _cast_matmul_backward)


@jax.custom_vjp
def matmul(x: Array, kernel: Array) -> Array:
    """x (..., in) @ kernel (in, out), both of one dtype.

    Its gradients are the usual ones, written so that a CPU's compiler transposes x for the kernel's, not the incoming
    gradient: that one it would compute a second time in transposed order, which takes longer than the product.
    A kernel that is not differentiated gets no gradient.
    """
    return x @ kernel


def _matmul_forward(x: Any, kernel: Any) -> tuple[Array, tuple[Array | None, Array]]:
    return x.value @ kernel.value, (x.value if kernel.perturbed else None, kernel.value)


def _matmul_backward(kept: tuple[Array | None, Array], gradient: Any) -> tuple[Array | None, Array | None]:
    x, kernel = kept
    if isinstance(gradient, jax.custom_derivatives.SymbolicZero):
        return None, None
    of_x = _times_transposed(gradient, kernel)
    if x is None:
        return of_x, None
    rows = tuple(range(x.ndim - 1))
    return of_x, jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())))  # (..., in), (in, out)


def _times_transposed(gradient: Array, kernel: Array) -> Array:
    """gradient (..., out) @ kernel.T -> (..., in). For few rows a CPU's compiler would first copy kernel.T whole."""
    if math.prod(gradient.shape[:-1]) > FEW_ROWS:
        return gradient @ kernel.T
    return jnp.moveaxis(jnp.tensordot(kernel, gradient, (1, -1)), 0, -1)


matmul.defvjp(_matmul_forward, _matmul_backward, symbolic_zeros=True)


@jax.custom_vjp
def cast_add(y: Array, bias: Array) -> Array:
    """y (..., out) + bias (out,) in y's dtype; the gradient of the bias, stored wider, is summed in float32."""
    return y + bias.astype(y.dtype)


def _cast_add_backward(bias: Array, gradient: Array) -> tuple[Array, Array]:
    total = jnp.sum(gradient.astype(jnp.float32), axis=tuple(range(gradient.ndim - 1)))
    return gradient, total.astype(bias.dtype)


cast_add.defvjp(lambda y, bias: (cast_add(y, bias), bias), _cast_add_backward)


class Linear(nn.Module):
    """y = x @ kernel + bias over the last axis; kernel is (in, out), stored in `param_dtype`, used in `dtype`.

    For inference it may be a `Quantized`.

    axes: logical names of (in, out). Where the collection `lora` holds `a` (in, rank) and `b` (rank, out) for this
    layer, (x a) b is added; with `keys`, one per sample, and `keep` (), the adapter sees x through dropout.
    """

    features: int
    axes: Axes
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
        x = x.astype(self.dtype)
        y = _matmul(x, kernel, self.axes)
        if self.use_bias:
            bias = self.param("bias", partitioned(self.bias_init, self.axes[1]), (self.features,), self.param_dtype)
            y = cast_add(y, bias) if _is_wider(bias, y) else y + bias.astype(self.dtype)
        if self.has_variable("lora", "a"):
            a, b = (self.get_variable("lora", name) for name in ("a", "b"))
            if self.has_variable("lora", "keys"):
                x = dropout(x, self.get_variable("lora", "keys"), self.get_variable("lora", "keep"))
            y = y + _matmul(_matmul(x, a, (self.axes[0], None)), b, (None, self.axes[1]))
        return y


def dropout(x: Array, keys: Array, keep: Array) -> Array:
    """x (B, ...) with every number kept with the probability `keep` and divided by it, else zero; keys (B,).

    A sample's draws follow from its key and run over its own axes, so that neither batch nor padding behind its tokens
    change them.
    """
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(keys)
    return jnp.where(kept, x / keep, 0).astype(x.dtype)


def _matmul(x: Array, kernel: Array | Quantized, axes: Axes) -> Array:
    """x @ kernel in x's dtype; a kernel stored in a wider type gets its gradient in that type."""
    if isinstance(kernel, Quantized):
        return times_quantized(x, kernel, rules.gather_parameter(kernel.values, *axes))
    return cast_matmul(x, kernel, axes) if _is_wider(kernel, x) else matmul(x, kernel.astype(x.dtype))


def _is_wider(stored: Array, used: Array) -> bool:
    return stored.dtype.itemsize > used.dtype.itemsize


def abstract_params(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Shapes and logical axes of a module's parameters: two plain trees of equal structure, nothing computed.

    Returns (ShapeDtypeStructs, tuples of axis names). Boxes (flax's partitioning metadata) exist only inside here.
    """
    token = _shapes_only.set(True)
    try:
        variables = jax.eval_shape(lambda *given: module.init(jax.random.key(0), *given, **kwargs), *args)
    finally:
        _shapes_only.reset(token)
    boxed = unfreeze(variables)["params"]
    is_box = lambda x: isinstance(x, meta.AxisMetadata)
    shapes = meta.unbox(boxed)
    axes = jax.tree.map(lambda x: tuple(x.names) if is_box(x) else (None,) * x.ndim, boxed, is_leaf=is_box)  # type: ignore[attr-defined]
    return shapes, axes


def init_params(module: nn.Module, key: Array, *args: Any, **kwargs: Any) -> Any:
    """Randomly initialised parameters as a plain nested dict (no boxes, no "params" level)."""
    return meta.unbox(unfreeze(module.init(key, *args, **kwargs)))["params"]
