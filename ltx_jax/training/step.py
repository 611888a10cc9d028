"""One training step of any stage, jitted and sharded: loss, gradients, clip, AdamW, moving average.

A stage is an objective: a function (params, frozen, batch, step) -> (loss, metrics), whose random draws all follow
from (seed, step, position in the global batch), so that the mesh does not change them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ltx_jax.parallel.program import Program, make_program, replicated
from ltx_jax.random import named_key
from ltx_jax.training.config import StageConfig
from ltx_jax.training.optimizer import learning_rate, make_optimizer
from ltx_jax.training.state import TrainState, abstract_state, update_ema

Array = jax.Array
Metrics = dict[str, Array]
# (trainable params, frozen, batch, completed steps) -> loss (), float32 metrics ()
Objective = Callable[[Any, Any, Any, Array], tuple[Array, Metrics]]


def make_train_program(
    objective: Objective, config: StageConfig, shapes: Any, axes: Any, frozen: Any, batch: Any, mesh: Mesh
) -> Program:
    """The step (state, frozen, batch) -> (state, metrics) of a stage. The state is donated, the frozen part is not.

    shapes, axes: of the trainable parameters; frozen, batch: ShapeDtypeStructs with shardings. Nothing is computed and
    the mesh's devices need not exist.
    """
    optimizer = make_optimizer(config.optimizer)
    state = abstract_state(shapes, axes, optimizer, config.ema_decay > 0, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, state)

    def train_step(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, Metrics]:
        loss, metrics, gradients = loss_and_gradients(objective, state, frozen, batch, shardings.params)
        rate = learning_rate(config.optimizer, state.step)
        metrics |= {"loss": loss, "grad_norm": optax.global_norm(gradients), "learning_rate": rate}
        return apply_gradients(state, gradients, optimizer, config.ema_decay), metrics

    out = (shardings, replicated(mesh))
    return make_program(train_step, (state, frozen, batch), mesh, out_shardings=out, donate=1)


def loss_and_gradients(
    objective: Objective, state: TrainState, frozen: Any, batch: Any, shardings: Any
) -> tuple[Array, Metrics, Any]:
    """Loss, metrics and float32 gradients, each gradient sharded as its parameter (so it is reduced by scattering)."""
    gradient = jax.value_and_grad(objective, has_aux=True)
    (loss, metrics), gradients = gradient(state.params, frozen, batch, state.step)
    return loss, metrics, jax.lax.with_sharding_constraint(gradients, shardings)


def apply_gradients(
    state: TrainState, gradients: Any, optimizer: optax.GradientTransformation, ema_decay: float
) -> TrainState:
    """The state after one update."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = None if state.ema is None else update_ema(state.ema, params, state.step, ema_decay)
    return TrainState(state.step + 1, params, opt_state, ema)


def sample_keys(seed: int, name: str, step: Array, batch: int) -> Array:
    """One key per sample of the global batch, (batch,), of the stream `name` at `step`."""
    key = named_key(seed, name, step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(batch))
