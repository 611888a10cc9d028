"""Distribution matching distillation: the gradient that moves a generator's samples onto the data's (families.md 8).

One-step Diffusion with Distribution Matching Distillation; Improved Distribution Matching Distillation (DMD2).
"""

import jax

from ltx_jax.diffusion.families.process import Array, namespace


def gradient(x: Array, x0_fake: Array, x0_real: Array) -> Array:
    """The direction (B, ...) against which generated x move, from both denoisers' x0 of the same noised x.

    Normalised by the mean distance, per sample, of x from what the real denoiser makes of it.
    """
    distance = abs(x - x0_real).reshape(len(x), -1).mean(axis=1)
    return (x0_fake - x0_real) / distance.reshape(-1, *(1,) * (x.ndim - 1))


def loss(x: Array, direction: Array) -> Array:
    """A number whose gradient by x is `direction` over x's size; nothing flows through the direction."""
    stop = (lambda v: v) if namespace(x).__name__ == "numpy" else jax.lax.stop_gradient
    return 0.5 * ((x - stop(x - direction)) ** 2).mean()
