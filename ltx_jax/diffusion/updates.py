"""The formulas of one step of each method, on tokens alone (spec sampling.md section 7); steppers.py runs them.

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


def euler_ancestral(
    x: Array,
    denoised: Array,
    sigma: Array,
    sigma_next: Array,
    noise: Array,
    eta: Array | float = 1.0,
    s_noise: Array | float = 1.0,
) -> Array:
    """Ancestral Euler for straight paths (7.3): a step below sigma_next, then `noise` back up to it.

    At sigma_next = 0 the result is `denoised`; at eta = 0 it is Euler's, whatever the noise.
    """
    below = sigma_next * (1 + (sigma_next / sigma - 1) * eta)
    signal, signal_below = 1 - sigma_next, 1 - below
    y = below / sigma * x.astype(jnp.float32) + (1 - below / sigma) * denoised.astype(jnp.float32)
    renoise = jnp.sqrt(jnp.maximum(0.0, sigma_next**2 - (below * signal / signal_below) ** 2))
    noised = signal / signal_below * y + s_noise * renoise * noise.astype(jnp.float32)
    return jnp.where(jnp.asarray(eta) == 0, y, noised).astype(x.dtype)


def euler_cfg_pp(
    x: Array,
    denoised: Array,
    sigma: Array,
    sigma_next: Array,
    uncond: Array,
    noise: Array,
    eta: Array | float = 1.0,
    s_noise: Array | float = 1.0,
) -> Array:
    """CFG++ Euler (7.4): towards the guided x0, with the noise direction of the raw unconditional one (B, T, C)."""
    eps = float(jnp.finfo(jnp.float32).eps)
    signal, signal_next = jnp.maximum(1 - sigma, eps), jnp.maximum(1 - sigma_next, eps)
    direction = (x.astype(jnp.float32) - signal * uncond.astype(jnp.float32)) / sigma
    ratio, ratio_next = sigma / signal, sigma_next / signal_next
    spread = ratio_next**2 * jnp.maximum(0.0, ratio**2 - ratio_next**2) / ratio**2
    up = jnp.minimum(ratio_next, eta * jnp.sqrt(spread))
    down = jnp.sqrt(jnp.maximum(0.0, ratio_next**2 - up**2))
    y = signal_next * denoised.astype(jnp.float32) + signal_next * down * direction
    return (y + signal_next * s_noise * up * noise.astype(jnp.float32)).astype(x.dtype)  # up is 0 where eta is
