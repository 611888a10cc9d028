"""One training step of any stage, jitted and sharded: loss, gradients, clip, update, moving average.

A stage is an objective: a function (params, frozen, batch, at) -> (loss, metrics), whose random draws all follow
from (seed, step, position in the global batch), so that neither the mesh nor accumulation changes them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from ltx_jax.parallel.flops import function_flops
from ltx_jax.parallel.program import Program, make_program, replicated
from ltx_jax.parallel.rules import constrain_divisible
from ltx_jax.rng import named_key
from ltx_jax.training.config import StageConfig
from ltx_jax.training.guard import accept
from ltx_jax.training.optimizer import learning_rate, make_optimizer, stacked_kernels
from ltx_jax.training.state import TrainState, abstract_state, update_ema

Array = jax.Array
Metrics = dict[str, Array]


class Microbatch(struct.PyTreeNode):
    """What an objective sees of a global batch: its samples first, first + stride, ... at `step` completed updates."""

    step: Array
    first: Array
    stride: int = struct.field(pytree_node=False)


# (trainable params, frozen, batch, completed steps: Array, or Microbatch) -> loss (), float32 metrics ()
Objective = Callable[[Any, Any, Any, Any], tuple[Array, Metrics]]


def make_train_program(
    objective: Objective, config: StageConfig, shapes: Any, axes: Any, frozen: Any, batch: Any, mesh: Mesh
) -> Program:
    """The step (state, frozen, batch) -> (state, metrics) of a stage. The state is donated, the frozen part is not.

    shapes, axes: of the trainable parameters; frozen, batch: ShapeDtypeStructs with shardings. Nothing is computed and
    the mesh's devices need not exist. A step whose loss or gradients are refused (training/guard.py) returns the state
    as it was, and says so in the metric `skipped`.
    """
    optimizer = make_optimizer(config.optimizer, axes, config.other_optimizers)
    state = abstract_state(shapes, axes, optimizer, config, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, state)

    def train_step(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, Metrics]:
        loss, metrics, gradients = loss_and_gradients(objective, config, state, frozen, batch, axes, shardings.params)
        norm = optax.global_norm(gradients)
        metrics |= {"loss": loss, "grad_norm": norm, "learning_rate": learning_rate(config.optimizer, state.step)}
        metrics |= _part_norms(gradients)
        after = apply_gradients(state, gradients, optimizer, config.ema_decay)
        if config.guard.max_skipped:
            after, metrics["skipped"] = accept(config.guard, state, after, loss, norm)
        return after, metrics

    def model_flops() -> float:
        with jax.set_mesh(mesh):
            forward = function_flops(objective, state.params, frozen, batch, state.step)
        size = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
        trained, fixed = size(state.params), size(frozen.get("params", {}))
        return forward * (2 + trained / (trained + fixed))  # backward: to activations, and to weights that learn

    out = (shardings, replicated(mesh))
    arguments = {"state": state, "frozen": frozen, "batch": batch}
    program = make_program(train_step, arguments, mesh, out_shardings=out, donate=["state"], weights=["frozen"])
    return dataclasses.replace(program, model_flops=model_flops)


def loss_and_gradients(
    objective: Objective, config: StageConfig, state: TrainState, frozen: Any, batch: Any, axes: Any, shardings: Any
) -> tuple[Array, Metrics, Any]:
    """Loss, metrics and float32 gradients, each gradient sharded as its parameter (so it is reduced by scattering).

    axes, shardings: of the trainable parameters.

    With config.accumulate = N the batch goes through in N parts, one after the other, and everything is the mean over
    the parts: for a loss that is a mean over samples, what the whole batch gives.
    """
    params = _narrowed(state.params, axes) if config.gradient_dtype == "bfloat16" else state.params
    gradient = jax.value_and_grad(objective, has_aux=True)

    def part(at: Array | Microbatch, batch: Any) -> tuple[Array, Metrics, Any]:
        (loss, metrics), gradients = gradient(params, frozen, batch, at)
        gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, state.params)
        return loss, metrics, jax.lax.with_sharding_constraint(gradients, shardings)

    count = config.accumulate
    if count == 1:
        return part(state.step, batch)

    def body(total: Any, item: Any) -> tuple[Any, tuple[Array, Metrics]]:
        index, batch = item
        batch = jax.tree.map(lambda x: constrain_divisible(x, "batch", *(None,) * (x.ndim - 1)), batch)
        loss, metrics, gradients = part(Microbatch(state.step, index, count), batch)
        return jax.tree.map(jnp.add, total, gradients), (loss, metrics)

    zeros = jax.lax.with_sharding_constraint(jax.tree.map(jnp.zeros_like, state.params), shardings)
    total, (losses, metrics) = jax.lax.scan(body, zeros, (jnp.arange(count), jax.tree.map(_split(count), batch)))
    # a metric that is NaN has nothing to say of its part
    means = jax.tree.map(lambda x: jnp.nanmean(x, axis=0), metrics)
    return jnp.mean(losses), means, jax.tree.map(lambda g: g / count, total)


def _split(count: int) -> Callable[[Array], Array]:
    """(B, ...) -> (count, B / count, ...); part i has samples i, i + count, ..., so that none changes its device."""
    return lambda x: jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)


def _narrowed(params: Any, axes: Any) -> Any:
    """Parameters with the kernels of stacked layers in bfloat16: their gradients are then made and summed in it."""
    return jax.tree.map(lambda x, narrow: x.astype(jnp.bfloat16) if narrow else x, params, stacked_kernels(axes))


def _part_norms(gradients: Any) -> Metrics:
    """The gradient norm of every part, where there are several."""
    return {f"grad_norm_{part}": optax.global_norm(g) for part, g in gradients.items()} if len(gradients) > 1 else {}


def apply_gradients(
    state: TrainState, gradients: Any, optimizer: optax.GradientTransformation, ema_decay: float
) -> TrainState:
    """The state after one update."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = None if state.ema is None else update_ema(state.ema, params, state.step, ema_decay)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)


def completed(at: Array | Microbatch) -> Array:
    """The number of completed updates, () int32."""
    return at.step if isinstance(at, Microbatch) else at


def sample_keys(seed: int, name: str, at: Array | Microbatch, batch: int) -> Array:
    """One key per sample, (batch,), of the stream `name`: it follows from the step and the place in the whole batch."""
    key, positions = named_key(seed, name, completed(at)), jnp.arange(batch)
    if isinstance(at, Microbatch):
        positions = at.first + at.stride * positions
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(positions)
