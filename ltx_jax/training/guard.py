"""Steps that are refused: a loss or gradient that is not finite, or a gradient far above the usual.

A refused step leaves the whole state as it was, its counter and moments included; the run goes on with the next batch
and reports it, until too many are refused in a row.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ltx_jax.errors import require

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """max_skipped: steps that may be refused in a row; 0 refuses none, and the first that is not finite stops the run.

    spike: refuse gradients whose norm exceeds this many times its running mean (0: only those that are not finite).
    decay: of that running mean, which begins to count after `warmup` accepted steps.
    """

    max_skipped: int = 0
    spike: float = 0.0
    decay: float = 0.98
    warmup: int = 50

    def __post_init__(self):
        require(self.max_skipped >= 0, f"guard.max_skipped must not be negative, not {self.max_skipped}.")
        require(self.spike == 0 or self.spike > 1, f"guard.spike must be above 1 (or 0 for none), not {self.spike}.")
        require(0 <= self.decay < 1, f"guard.decay must lie in [0, 1), not {self.decay}.")
        require(self.warmup >= 1, f"guard.warmup must be at least 1, not {self.warmup}.")
        require(
            self.spike == 0 or self.max_skipped > 0, "guard.spike refuses steps: it needs a guard.max_skipped above 0."
        )


class GradientNorm(struct.PyTreeNode):
    """The running mean of accepted gradient norms, () float32, and how many there were, () int32."""

    mean: Array
    count: Array


def initial_norm(config: GuardConfig) -> GradientNorm | None:
    """What the state keeps: nothing unless spikes are refused."""
    return GradientNorm(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)) if config.spike else None


def accept(config: GuardConfig, before: Any, after: Any, loss: Array, norm: Array) -> tuple[Any, Array]:
    """The state to go on with, and whether the step was refused, () float32 0 or 1.

    before, after: states (training/state.py), whose field `norm` is kept here.
    """
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    if config.spike:
        known: GradientNorm = before.norm
        good &= (known.count < config.warmup) | (norm <= config.spike * known.mean)
        # a plain mean at first, so that no early value counts for more
        weight = jnp.maximum(1 - config.decay, 1 / (known.count + 1).astype(jnp.float32))
        after = after.replace(norm=GradientNorm(known.mean + weight * (norm - known.mean), known.count + 1))
    return jax.tree.map(lambda new, old: jnp.where(good, new, old), after, before), 1.0 - good.astype(jnp.float32)
