"""One step of each sampler, as pure functions (spec sampling.md section 7).

Common arguments: x (B, T, C) current tokens; denoised (B, T, C) the blended x0 prediction; sigma and sigma_next, the
scalars of the schedule at and after this step. Arithmetic is float32, the result has x's dtype.
"""

import jax
import jax.numpy as jnp

from ltx_jax.diffusion.objectives import velocity_from_x0

Array = jax.Array


def euler(x: Array, denoised: Array, sigma: Array, sigma_next: Array) -> Array:
    """Euler along the straight path (7.1); at sigma_next = 0 it lands on `denoised` up to rounding."""
    velocity = velocity_from_x0(x, denoised, sigma)
    return (x.astype(jnp.float32) + velocity * (sigma_next - sigma)).astype(x.dtype)


STEPPERS = {"euler": euler}
