"""The training state: what changes with every step, and how it is sharded."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from ltx_jax.parallel.program import replicated, with_shardings
from ltx_jax.parallel.rules import param_shardings

Array = jax.Array


@struct.dataclass
class TrainState:
    """step: int32 () completed updates. params: trainable parts by name, float32. opt_state: of the optimizer. ema:
    moving average of params, or None. Frozen parts are no state: they are a second, unchanged argument of the step.
    """

    step: Array
    params: Any
    opt_state: Any
    ema: Any = None

    @property
    def weights(self) -> Any:
        """The parameters to sample and encode with: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


def initial_state(params: Any, optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step, from parameters."""
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def abstract_state(
    shapes: Any, axes: Any, optimizer: optax.GradientTransformation, ema: bool, mesh: Mesh
) -> TrainState:
    """The state's ShapeDtypeStructs with shardings; nothing is computed and no device is needed.

    shapes, axes: of the trainable parameters (models/layers.py: abstract_params). The optimizer's moments and the
    moving average are sharded as the parameters are; counters are replicated.
    """
    state = jax.eval_shape(lambda p: initial_state(p, optimizer, ema), shapes)
    shardings = param_shardings(axes, shapes, mesh)
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        state.opt_state,
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )
    average = shardings if ema else None
    return with_shardings(state, TrainState(replicated(mesh), shardings, moments, average))


def update_ema(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """ema <- d ema + (1 - d) params with d = min(decay, (1 + step) / (10 + step)), so that early weights fade fast.

    step: completed updates before this one.
    """
    k = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + k) / (10 + k))
    return jax.tree.map(lambda e, p: e + (1 - d) * (p - e), ema, params)
