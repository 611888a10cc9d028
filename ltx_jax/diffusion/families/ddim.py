"""Denoising diffusion implicit models: any subsequence of a chain, with as much noise as wished (families.md 2)."""

import numpy as np

from ltx_jax.diffusion.families.process import Array, namespace, per_sample
from ltx_jax.errors import require

SPACINGS = ("leading", "trailing", "linspace")


def timesteps(spacing: str, train_steps: int, steps: int) -> np.ndarray:
    """Which indices of a chain are visited, int64 (steps,), descending. Raises UserError: more than there are."""
    require(spacing in SPACINGS, f"There is no spacing '{spacing}'; choose one of {', '.join(SPACINGS)}.")
    require(1 <= steps <= train_steps, f"A chain of {train_steps} steps cannot be sampled in {steps}.")
    k = np.arange(steps)
    if spacing == "leading":
        return (train_steps // steps * k)[::-1]
    if spacing == "trailing":
        return np.round(train_steps - k * train_steps / steps).astype(int) - 1
    return np.round(np.linspace(0, train_steps - 1, steps)).astype(int)[::-1]


def targets(spacing: str, train_steps: int, steps: int) -> np.ndarray:
    """Where the step from each of `timesteps` leads, int64 (steps,); -1 is clean data.

    A stride below for `leading`; the next visited index for the others.
    """
    visited = timesteps(spacing, train_steps, steps)
    if spacing == "leading":
        return np.maximum(visited - train_steps // steps, -1)
    return np.append(visited[1:], -1)


def added_noise(a: Array, s: Array, a_to: Array, s_to: Array, eta: float) -> Array:
    """The standard deviation of the noise that a step draws afresh, where a^2 + s^2 = 1; eta 1 is the ancestral one."""
    xp = namespace(a, s, a_to, s_to)
    return eta * s_to / s * xp.sqrt(xp.maximum(0.0, 1 - (a / a_to) ** 2))


def step(x0: Array, epsilon: Array, a_to: Array, s_to: Array, noise: Array | None = None, added: Array = 0.0) -> Array:
    """The step to level (a_to, s_to) along the predictions x0 and epsilon (B, ...), up (inversion) or down.

    Without noise it serves every family: it is Euler's step of flow matching and of EDM. added: standard deviation of
    the part that `noise` replaces, see `added_noise`.
    """
    xp = namespace(x0, epsilon, a_to, s_to)
    kept = per_sample(xp.sqrt(xp.maximum(0.0, s_to**2 - added**2)), x0)
    moved = per_sample(a_to, x0) * x0 + kept * epsilon
    return moved if noise is None else moved + per_sample(added, x0) * noise
