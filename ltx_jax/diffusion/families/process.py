"""One notation for every family: x = a x0 + s e with e ~ N(0, I), and what a network may predict of it.

Source: spec families.md section 0. The functions of this folder take numpy arrays (float64 for tables and tests) and
JAX arrays (also traced) alike and compute in their precision; a, s, times and levels are scalars or (B,), one per
sample of x (B, ...).
"""

from types import ModuleType
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require

Array = Any  # a numpy or a JAX array, or a number

# noise, data, v = a e - s x0, grad log p(x), e - x0
Prediction = Literal["epsilon", "x0", "v", "score", "velocity"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


def namespace(*values: Array) -> ModuleType:
    """jax.numpy where one of the values is a JAX array, else numpy."""
    return jnp if any(isinstance(v, jax.Array) for v in values) else np


def per_sample(value: Array, x: Array) -> Array:
    """A scalar as it is, and (B,) shaped to broadcast against x (B, ...)."""
    return value.reshape(-1, *(1,) * (x.ndim - 1)) if getattr(value, "ndim", 0) == 1 else value


def add_noise(x0: Array, epsilon: Array, a: Array, s: Array) -> Array:
    """x = a x0 + s epsilon."""
    return per_sample(a, x0) * x0 + per_sample(s, x0) * epsilon


def target(kind: str, x0: Array, epsilon: Array, a: Array, s: Array) -> Array:
    """What a network of this prediction should answer where x = a x0 + s epsilon. Raises UserError: unknown kind."""
    check_prediction(kind)
    a, s = per_sample(a, x0), per_sample(s, x0)
    if kind == "epsilon":
        return epsilon
    if kind == "x0":
        return x0
    if kind == "v":
        return a * epsilon - s * x0
    return -epsilon / s if kind == "score" else epsilon - x0


def x0_epsilon(kind: str, x: Array, output: Array, a: Array, s: Array) -> tuple[Array, Array]:
    """The pair (x0, epsilon) that a network's output at x stands for (0.1). Raises UserError on an unknown kind.

    Data is not determined by noise where a = 0 (a schedule of zero terminal SNR needs v or x0), nor noise by data
    where s = 0.
    """
    check_prediction(kind)
    a, s = per_sample(a, x), per_sample(s, x)
    if kind == "epsilon":
        return (x - s * output) / a, output
    if kind == "x0":
        return output, (x - a * output) / s
    if kind == "v":
        norm = a**2 + s**2
        return (a * x - s * output) / norm, (s * x + a * output) / norm
    if kind == "score":
        return (x + s**2 * output) / a, -s * output
    return (x - s * output) / (a + s), (x + a * output) / (a + s)


def x0_weight(kind: str, snr: Array) -> Array:
    """The weight on |x0 - x0_hat|^2 that an unweighted squared error of this prediction equals, at SNR a^2/s^2 (0.2).

    "score" is the error times s^2; "velocity" that of the straight path.
    """
    check_prediction(kind)
    if kind == "x0":
        return namespace(snr).ones_like(snr)
    if kind == "v":
        return snr + 1
    return (1 + snr**0.5) ** 2 if kind == "velocity" else snr


def min_snr_weight(kind: str, snr: Array, gamma: float = 5.0) -> Array:
    """The factor of a squared error that weighs x0's by min(SNR, gamma) (Min-SNR Weighting Strategy; 0.2)."""
    return namespace(snr).minimum(snr, gamma) / x0_weight(kind, snr)


def check_prediction(kind: str) -> None:
    """Raises UserError when there is no such prediction."""
    require(kind in PREDICTIONS, f"A network cannot predict '{kind}'; choose one of {', '.join(PREDICTIONS)}.")
