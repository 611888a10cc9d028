"""LoRA training: which linear layers get an adapter, and its first values (spec training.md sections 1.2 and 5.4).

The trainable part "lora" is the Flax collection of that name for the transformer: the paths of its parameters, with
leaves `a` (in, rank) and `b` (rank, out). The transformer itself is frozen.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ltx_jax.checkpoints.lora import targeted
from ltx_jax.checkpoints.names.dit import dit_names
from ltx_jax.config import require
from ltx_jax.models.dit.config import DiTConfig
from ltx_jax.random import named_key

Array = jax.Array
PART = "lora"


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Adapters y = W x + (alpha / rank) B A x beside the frozen transformer.

    target_modules: patterns of official module names; a layer is adapted when its name equals one or ends with "." and
    it, so that `attn1.to_k` leaves `audio_attn1.to_k` alone and `to_k` means all of them.
    """

    rank: int = 64
    alpha: int = 64
    target_modules: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")

    def __post_init__(self):
        require(self.rank >= 2, f"The rank of a LoRA must be at least 2, not {self.rank}.")
        require(self.alpha >= 1, f"The alpha of a LoRA must be at least 1, not {self.alpha}.")
        require(bool(self.target_modules), "A LoRA needs at least one pattern in target_modules.")

    @property
    def scale(self) -> float:
        """What the product B A is multiplied with."""
        return self.alpha / self.rank


def abstract_lora(config: LoRAConfig, dit: DiTConfig, shapes: Any, axes: Any) -> tuple[Any, Any]:
    """Shapes (ShapeDtypeStructs, float32) and logical axes of the collection, from those of the transformer.

    Raises UserError for a target that matches nothing.
    """
    lora_shapes: dict[str, Any] = {}
    lora_axes: dict[str, Any] = {}
    for name in targeted(dit_names(dit), config.target_modules):
        *stack, inputs, outputs = _at(shapes, name.path).shape
        *stack_axes, input_axis, output_axis = _at(axes, name.path)
        struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
        pair = {"a": struct(*stack, inputs, config.rank), "b": struct(*stack, config.rank, outputs)}
        names = {"a": (*stack_axes, input_axis, None), "b": (*stack_axes, None, output_axis)}
        for tree, leaf in ((lora_shapes, pair), (lora_axes, names)):
            for key in name.path[:-2]:
                tree = tree.setdefault(key, {})
            tree[name.path[-2]] = leaf
    return lora_shapes, lora_axes


def initial_lora(shapes: Any, seed: int) -> Any:
    """First values: A uniform within 1 / sqrt(in), B zero, so that training starts from the frozen model (5.4).

    A layer's values depend on (seed, its path) alone; to be traced by `jit`.
    """

    def leaf(path: tuple, x: jax.ShapeDtypeStruct) -> Array:
        if path[-1].key == "b":
            return jnp.zeros(x.shape, x.dtype)
        bound = x.shape[-2] ** -0.5
        key = named_key(seed, f"init.lora.{'.'.join(k.key for k in path)}")
        return jax.random.uniform(key, x.shape, x.dtype, -bound, bound)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def scaled(lora: Any, scale: float) -> Any:
    """The collection with `scale` multiplied into every B: what the network, a merge and a file expect."""
    if scale == 1:
        return lora
    return jax.tree_util.tree_map_with_path(lambda path, x: x * scale if path[-1].key == "b" else x, lora)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
