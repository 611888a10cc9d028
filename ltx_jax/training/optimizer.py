"""The optimizer: global-norm clip, AdamW and the learning-rate schedules (spec training.md section 5.3)."""

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ltx_jax.config import require

Array = jax.Array

ScheduleType = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "step", "warmup_cosine"]

# The parameters that each schedule reads; any other that was set is an error.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "constant": (),
    "linear": ("start_factor", "end_factor"),
    "cosine": ("eta_min",),
    "cosine_with_restarts": ("T_0", "T_mult", "eta_min"),
    "polynomial": ("power",),
    "step": ("step_size", "gamma"),
    "warmup_cosine": ("warmup_steps", "eta_min"),
}


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """A learning-rate schedule over N training steps; None means the default that depends on N or on the type.

    linear: from start_factor to end_factor times the rate. cosine: down to eta_min (0), rising again after N.
    cosine_with_restarts: first period T_0 (N // 4), each next one T_mult times longer, down to eta_min (5e-5).
    polynomial: power. step: times gamma every step_size (N // 2) steps. warmup_cosine (ours): linear rise over
    warmup_steps, then a cosine down to eta_min (0) at N, where it stays.
    """

    type: ScheduleType = "linear"
    start_factor: float = 1.0
    end_factor: float = 0.1
    eta_min: float | None = None
    T_0: int | None = None
    T_mult: int = 1
    power: float = 1.0
    step_size: int | None = None
    gamma: float = 0.1
    warmup_steps: int = 0

    def __post_init__(self):
        require(self.type in get_args(ScheduleType), f"There is no learning-rate schedule '{self.type}'.")
        known = _PARAMETERS[self.type]
        for field in dataclasses.fields(self):
            unused = field.name not in ("type", *known) and getattr(self, field.name) != field.default
            names = ", ".join(known) or "none"
            require(not unused, f"The schedule '{self.type}' has no parameter '{field.name}'; it takes {names}.")
        for name in ("T_0", "T_mult", "step_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"'{name}' of the schedule must be at least 1, not {value}.")
        require(self.warmup_steps >= 0, f"'warmup_steps' must not be negative, not {self.warmup_steps}.")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Everything about the update. steps: the length N of the schedule. max_grad_norm: 0 turns clipping off.

    Weight decay applies to every trainable parameter, norms and biases included.
    """

    optimizer: Literal["adamw"] = "adamw"
    learning_rate: float = 5e-4
    steps: int = 3000
    schedule: ScheduleConfig = ScheduleConfig()
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def __post_init__(self):
        require(self.learning_rate > 0, f"The learning rate must be positive, not {self.learning_rate}.")
        require(self.steps >= 1, f"Training needs at least one step, not {self.steps}.")
        require(0 <= self.b1 < 1 and 0 <= self.b2 < 1, f"b1 and b2 must lie in [0, 1), not {self.b1} and {self.b2}.")
        require(self.eps > 0, f"eps must be positive, not {self.eps}.")
        require(self.weight_decay >= 0, f"The weight decay must not be negative, not {self.weight_decay}.")
        require(self.max_grad_norm >= 0, f"max_grad_norm must not be negative, not {self.max_grad_norm}.")
        warmup = self.schedule.warmup_steps
        require(
            warmup <= self.steps, f"The warm-up of {warmup} steps is longer than the {self.steps} steps of training."
        )


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW with decoupled weight decay at the scheduled rate."""
    return optax.chain(
        clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(lambda step: learning_rate(config, step)),
    )


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Multiply all gradients by min(1, max_norm / (norm + 1e-6)), as PyTorch does; optax's own clip has no 1e-6."""
    if max_norm == 0:
        return optax.identity()

    def update(updates, state, params=None):
        del params
        scale = jnp.minimum(1.0, max_norm / (optax.global_norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def learning_rate(config: OptimizerConfig, step: Array | int) -> Array:
    """The rate after `step` completed updates (the first update uses 0): float32, of the shape of `step`."""
    s, base, total = config.schedule, config.learning_rate, config.steps
    k = jnp.asarray(step, jnp.float32)
    progress = jnp.minimum(k, total) / total
    if s.type == "linear":
        return base * (s.start_factor + (s.end_factor - s.start_factor) * progress)
    if s.type == "cosine":
        return _cosine(base, s.eta_min or 0.0, k / total)
    if s.type == "cosine_with_restarts":
        eta_min = 5e-5 if s.eta_min is None else s.eta_min
        return _cosine(base, eta_min, _since_restart(s.T_0 or max(1, total // 4), s.T_mult, jnp.asarray(step)))
    if s.type == "polynomial":
        return base * (1 - progress) ** s.power
    if s.type == "step":
        return base * jnp.float32(s.gamma) ** (jnp.asarray(step) // (s.step_size or max(1, total // 2)))
    if s.type == "warmup_cosine":
        after = jnp.clip((k - s.warmup_steps) / max(1, total - s.warmup_steps), 0, 1)
        rise = base * (k + 1) / max(1, s.warmup_steps)
        return jnp.where(k < s.warmup_steps, rise, _cosine(base, s.eta_min or 0.0, after))
    return jnp.full(k.shape, base, jnp.float32)


def _cosine(high: float, low: float, fraction: Array) -> Array:
    return low + (high - low) * (1 + jnp.cos(math.pi * fraction)) / 2


def _since_restart(first: int, growth: int, step: Array) -> Array:
    """Fraction of the current period that has passed: periods of first, first * growth, first * growth^2, ... steps."""
    if growth == 1:
        return (step % first) / first
    lengths = [first]
    while sum(lengths) < 2**31 - 1:
        lengths.append(lengths[-1] * growth)
    starts = np.minimum(np.cumsum([0, *lengths[:-1]]), 2**31 - 1).astype(np.int32)
    period = jnp.searchsorted(jnp.asarray(starts), step.astype(jnp.int32), side="right") - 1
    return (step - jnp.asarray(starts)[period]) / jnp.asarray(lengths, jnp.float32)[period]
