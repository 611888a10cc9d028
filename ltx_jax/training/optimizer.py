"""The optimizers and the learning-rate schedules (spec training.md section 5.3).

Each optimizer clips by the global norm first, and takes its rate from the schedule.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from ltx_jax.errors import require

Array = jax.Array

OptimizerName = Literal["adamw", "adafactor", "muon"]
MomentType = Literal["float32", "bfloat16"]
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

    name: adamw; adafactor, whose second moment of a matrix is its row and column sums, without a first one (b1 and b2
    say nothing to it); or muon, which orthogonalises the updates of matrices in stacked layers and of convolutions, of
    the size that AdamW's have so that its rates serve, and leaves all else to AdamW. first_moment, second_moment: the
    types that moments are stored in between updates, computed with in float32. Rounding to bfloat16 drops changes below
    0.4%: the second moment needs b2 <= 0.99 there. Weight decay applies to every trainable parameter, norms and biases
    included.
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 5e-4
    steps: int = 3000
    schedule: ScheduleConfig = ScheduleConfig()
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    first_moment: MomentType = "float32"
    second_moment: MomentType = "float32"

    def __post_init__(self):
        names = get_args(OptimizerName)
        require(self.name in names, f"There is no optimizer '{self.name}'; known: {', '.join(names)}.")
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
        self._check_moments()

    def _check_moments(self) -> None:
        known = get_args(MomentType)
        for name in ("first_moment", "second_moment"):
            value = getattr(self, name)
            require(value in known, f"{name} must be {' or '.join(known)}, not '{value}'.")
        require(self.first_moment == "float32" or self.name != "adafactor", "Adafactor has no first_moment to store.")
        small = self.second_moment == "bfloat16"
        require(not small or self.name == "adamw", f"Only adamw stores its second_moment in bfloat16, not {self.name}.")
        require(
            not small or self.b2 <= 0.99,
            f"A second_moment in bfloat16 cannot follow b2 = {self.b2}: its changes are rounded away; use b2 <= 0.99.",
        )


def make_optimizer(
    config: OptimizerConfig, axes: Any, others: Mapping[str, OptimizerConfig] | None = None
) -> optax.GradientTransformation:
    """Clip by global norm, then the update of the named optimizer at the scheduled rate, weight decay decoupled.

    axes: logical axes of the parameters, a tree of tuples; muon reads from them which are kernels of stacked layers.
    others: optimizers of parts that have their own, where these are among the parameters: each clips by its own norm.
    """
    apart = {part: other for part, other in (others or {}).items() if part in axes}
    if apart:
        rest = {part: names for part, names in axes.items() if part not in apart}
        made = {part: make_optimizer(other, {part: axes[part]}) for part, other in apart.items()}
        return _by_part(made, make_optimizer(config, rest))
    rate = lambda step: learning_rate(config, step)
    clip, dtype = clip_by_global_norm(config.max_grad_norm), jnp.dtype(config.first_moment)
    if config.name == "muon":
        muon = optax.contrib.muon(
            rate, eps=config.eps, weight_decay=config.weight_decay, mu_dtype=dtype, consistent_rms=0.2,
            adam_b1=config.b1, adam_b2=config.b2, adam_weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=lambda _: _matrices(axes),
        )  # fmt: skip
        return optax.chain(clip, muon)
    if config.name == "adafactor":
        # parameters of stacked layers count as one block
        scale = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    else:
        adam = optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=dtype)
        scale = adam if config.second_moment == "float32" else _store_second_moment(adam, jnp.bfloat16)
    decay = optax.add_decayed_weights(config.weight_decay)
    return optax.chain(clip, scale, decay, optax.scale_by_learning_rate(rate))


def _by_part(
    apart: Mapping[str, optax.GradientTransformation], rest: optax.GradientTransformation
) -> optax.GradientTransformation:
    """An optimizer for each of some parts, and one for all others together; trees are dicts by part."""

    def split(tree: Any) -> dict[str, Any]:
        return {part: {part: tree[part]} for part in apart} | {
            "rest": {part: x for part, x in tree.items() if part not in apart}
        }

    optimizers = {**apart, "rest": rest}

    def update(updates, state, params=None):
        given, parameters = split(updates), split(params)
        done = {name: o.update(given[name], state[name], parameters[name]) for name, o in optimizers.items()}
        merged = {part: x for changed, _ in done.values() for part, x in changed.items()}
        return {part: merged[part] for part in updates}, {name: state for name, (_, state) in done.items()}

    init = lambda params: {name: optimizers[name].init(part) for name, part in split(params).items()}
    return optax.GradientTransformation(init, update)


def _store_second_moment(adam: optax.GradientTransformation, dtype: Any) -> optax.GradientTransformation:
    """Adam whose second moment lies in `dtype` between updates; each update computes with it in float32."""
    stored = lambda state, dtype: state._replace(nu=jax.tree.map(lambda x: x.astype(dtype), state.nu))

    def update(updates, state, params=None):
        updates, state = adam.update(updates, stored(state, jnp.float32), params)
        return updates, stored(state, dtype)

    return optax.GradientTransformation(lambda params: stored(adam.init(params), dtype), update)


def stacked_kernels(axes: Any) -> Any:
    """Which parameters are the matrices (L, in, out) of stacked layers: a tree of bools like `axes`.

    A stack has the logical axis `layers`; a convolution's kernel has as many axes and is none. Tables of modulation and
    pairs of adapters are stacked too, but are no kernels.
    """
    is_axes = lambda x: isinstance(x, tuple)
    kernel = lambda path, names: path[-1].key == "kernel" and len(names) == 3 and names[0] == "layers"
    return jax.tree_util.tree_map_with_path(kernel, axes, is_leaf=is_axes)


def _matrices(axes: Any) -> Any:
    """For every parameter the axes that Muon orthogonalises: (in, out) of kernels in stacked layers, (all taps and in,
    out) of convolutions, None elsewhere.
    """

    def dimensions(names: tuple, stacked: bool) -> optax.contrib.MuonDimensionNumbers | None:
        if stacked:
            return optax.contrib.MuonDimensionNumbers(1, 2)
        last = len(names) - 1
        convolution = last >= 2 and names[-2:] == ("conv_in", "conv_out")
        return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last) if convolution else None

    return jax.tree.map(dimensions, axes, stacked_kernels(axes), is_leaf=lambda x: isinstance(x, tuple))


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
