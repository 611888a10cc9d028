"""The training state: what changes with every step, and how it is sharded."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding

from ltx_jax.parallel.program import replicated, with_shardings
from ltx_jax.parallel.rules import param_shardings, spec
from ltx_jax.training.config import StageConfig
from ltx_jax.training.guard import GradientNorm, initial_norm

Array = jax.Array


class TrainState(struct.PyTreeNode):
    """step: int32 () completed updates. params: trainable parts by name, float32. opt_state: of the optimizer. ema:
    moving average of params, or None. norm: running gradient norm, where spikes are refused. Frozen parts are no
    state: they are a second, unchanged argument of the step.
    """

    step: Array
    params: Any
    opt_state: Any
    ema: Any = None
    norm: GradientNorm | None = None

    @property
    def weights(self) -> Any:
        """The parameters to sample and encode with: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


def initial_state(params: Any, optimizer: optax.GradientTransformation, config: StageConfig) -> TrainState:
    """The state before the first step, from parameters."""
    average = jax.tree.map(jnp.copy, params) if config.ema_decay > 0 else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average, initial_norm(config.guard))


def abstract_state(
    shapes: Any, axes: Any, optimizer: optax.GradientTransformation, config: StageConfig, mesh: Mesh
) -> TrainState:
    """The state's ShapeDtypeStructs with shardings; nothing is computed and no device is needed.

    shapes, axes: of the trainable parameters (models/layers.py: abstract_params). The optimizer's moments and the
    moving average are sharded as the parameters are; counters are replicated.
    """
    state = jax.eval_shape(lambda p: initial_state(p, optimizer, config), shapes)
    shardings = param_shardings(axes, shapes, mesh)
    moments = _moment_shardings(state.opt_state, shapes, axes, mesh)
    everywhere = jax.tree.map(lambda _: replicated(mesh), state.norm)
    average = None if state.ema is None else shardings
    return with_shardings(state, TrainState(replicated(mesh), shardings, moments, average, everywhere))  # type: ignore[arg-type]


def _moment_shardings(opt_state: Any, shapes: Any, axes: Any, mesh: Mesh) -> Any:
    """Shardings of an optimizer's state: what stands at a parameter's path is sharded as that parameter is.

    A factored moment lacks one of the parameter's axes, and keeps the others' places. All else is replicated.
    """
    is_names = lambda a: isinstance(a, tuple) and all(n is None or isinstance(n, str) for n in a)
    names = dict(jax.tree_util.tree_leaves_with_path(axes, is_leaf=is_names))
    parameters = {path: (x.shape, names[path]) for path, x in jax.tree_util.tree_leaves_with_path(shapes)}

    def leaf(path: tuple, x: jax.ShapeDtypeStruct) -> NamedSharding:
        ends = (parameters[path[i:]] for i in range(len(path)) if path[i:] in parameters)
        shape, kept = next(ends, ((), ()))
        missing = [i for i in range(len(shape)) if x.shape == shape[:i] + shape[i + 1 :]]
        if x.shape != shape:
            kept = kept[: missing[0]] + kept[missing[0] + 1 :] if missing else ()
        return NamedSharding(mesh, spec(kept, x.shape, mesh))

    return jax.tree_util.tree_map_with_path(leaf, opt_state)


def update_ema(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """ema <- d ema + (1 - d) params with d = min(decay, (1 + step) / (10 + step)), so that early weights fade fast.

    step: completed updates before this one.
    """
    k = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + k) / (10 + k))
    return jax.tree.map(lambda e, p: e + (1 - d) * (p - e), ema, params)
