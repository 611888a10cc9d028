"""Named random streams: one root seed, folded with a stable hash of a name and with integers.

Nothing random is stored: the key of step 1000 follows from (seed, name, 1000), so a resumed run draws what an
uninterrupted one would have drawn.
"""

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Polynomials of the inverse error function (M. Giles, "Approximating the erfinv function", 2010), highest power first:
# in w - 2.5 where w = -log(1 - x^2) < 5, in sqrt(w) - 3 beyond.
_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip


def stream_id(name: str) -> int:
    """A 31-bit number for `name`, equal on every machine and in every Python process."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def named_key(seed: int | jax.Array, name: str, *steps: int | jax.Array) -> jax.Array:
    """The key of the stream `name` under the root `seed` (an int or a key), folded with each of `steps`."""
    key = _root(seed) if isinstance(seed, int) else seed
    key = jax.random.fold_in(key, stream_id(name))
    for step in steps:
        key = jax.random.fold_in(key, step)
    return key


def _root(seed: int) -> jax.Array:
    """The key of a seed in 0..2^64 - 1. JAX alone refuses those from 2^63 on, and forgets all but the low 32 bits."""
    key, high = jax.random.key(seed & 0xFFFFFFFF), seed >> 32
    return jax.random.fold_in(key, np.uint32(high)) if high > 0 else key


def numpy_rng(seed: int, name: str, *steps: int) -> np.random.Generator:
    """The same idea for host-side draws (data order, augmentation): a NumPy generator of (seed, name, steps)."""
    return np.random.default_rng([seed & 0xFFFFFFFF, stream_id(name), *steps])


def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal numbers, float32: what `jax.random.normal` draws, to within rounding.

    The bits of a number follow from the key and its place alone. Those of `jax.random.normal` do not on a CPU: the body
    of a vectorised loop takes another logarithm than the rest behind it, and a compiler fuses a product with the
    sum that it goes into or does not, so that a sample's noise would change with its batch. Here every operation is
    rounded alike everywhere.
    """
    x = jax.random.uniform(key, shape, jnp.float32, minval=np.nextafter(np.float32(-1), np.float32(0)), maxval=1.0)
    w = -_log((1 - x) * (1 + x))
    tail = w >= 5
    z = jnp.where(tail, jnp.sqrt(w) - 3, w - 2.5)
    coefficients = [jnp.where(tail, *pair) for pair in zip(_TAIL, _CENTRE, strict=True)]
    return _product(np.float32(np.sqrt(2)) * x, _polynomial(z, coefficients))


def _log(x: jax.Array) -> jax.Array:
    """The natural logarithm of positive float32 numbers (none of them subnormal), by arithmetic alone."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32) - 0x3F3504F3  # the bits of sqrt(1/2)
    exponent = (bits >> 23).astype(jnp.float32)
    m = jax.lax.bitcast_convert_type((bits & 0x7FFFFF) + 0x3F3504F3, jnp.float32)  # x / 2^exponent, in [0.707, 1.414)
    ratio = (m - 1) / (m + 1)
    series = _polynomial(ratio * ratio, [2 / 9, 2 / 7, 2 / 5, 2 / 3, 2])  # log(m) = 2 atanh(ratio) = ratio * series
    return _product(exponent, np.float32(np.log(2))) + _product(ratio, series)


def _polynomial(x: jax.Array, coefficients: Sequence[Any]) -> Any:
    """Highest power first."""
    return functools.reduce(lambda total, c: _product(total, x) + c, coefficients)


def _product(a: Any, b: Any) -> jax.Array:
    """a * b to 23 bits, one less than float32 has: a rounding that no compiler leaves out or fuses with a sum."""
    return jax.lax.reduce_precision(a * b, exponent_bits=8, mantissa_bits=22)
