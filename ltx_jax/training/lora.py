"""LoRA training: which linear layers get an adapter, and its first values (spec training.md sections 1.2 and 5.4).

The trainable part "lora" is the Flax collection of that name for the transformer: the paths of its parameters, with
leaves `a` (in, rank) and `b` (rank, out). The transformer itself is frozen.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.checkpoints.lora import linear_names, load_lora, modules_of, targeted
from ltx_jax.errors import require
from ltx_jax.models.dit.config import DiTConfig
from ltx_jax.names.dit import dit_names
from ltx_jax.parallel.multihost import say
from ltx_jax.rng import named_key

Array = jax.Array
PART = "lora"


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Adapters y = W x + (alpha / rank) B A x beside the frozen transformer.

    target_modules: patterns of official module names; a layer is adapted when its name equals one or ends with "." and
    it, so that `attn1.to_k` leaves `audio_attn1.to_k` alone, `to_k` means all of them, and
    `transformer_blocks.1.attn1.to_k` a single block. dropout: the share of an
    adapter's inputs that is zero in each step. init: a LoRA file of this rank to start from, in any usual spelling.
    """

    rank: int = 64
    alpha: int = 64
    target_modules: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")
    dropout: float = 0.0
    init: str | None = None

    def __post_init__(self):
        require(self.rank >= 2, f"The rank of a LoRA must be at least 2, not {self.rank}.")
        require(self.alpha >= 1, f"The alpha of a LoRA must be at least 1, not {self.alpha}.")
        require(bool(self.target_modules), "A LoRA needs at least one pattern in target_modules.")
        require(0 <= self.dropout < 1, f"The dropout of a LoRA must lie in [0, 1), not {self.dropout}.")

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


def adapted_layers(config: LoRAConfig, dit: DiTConfig) -> dict[tuple[str, ...], np.ndarray]:
    """Which layers of its stack are adapted, bool (L,), by path of the layer, where not all of them are."""
    found = targeted(dit_names(dit), config.target_modules)
    return {name.path[:-1]: layers for name, layers in found.items() if not layers.all()}


def initial_lora(shapes: Any, seed: int, layers: Mapping[tuple[str, ...], np.ndarray] | None = None) -> Any:
    """First values: A uniform within 1 / sqrt(in), B zero, so that training starts from the frozen model (5.4).

    A layer's values depend on (seed, its path) alone; to be traced by `jit`. layers: see `adapted_layers`. Both halves
    are zero in the others, where each keeps the other's gradient at zero: they change nothing and are not trained.
    """

    def leaf(path: tuple, x: jax.ShapeDtypeStruct) -> Array:
        if path[-1].key == "b":
            return jnp.zeros(x.shape, x.dtype)
        bound = x.shape[-2] ** -0.5
        key = named_key(seed, f"init.lora.{'.'.join(k.key for k in path)}")
        values = jax.random.uniform(key, x.shape, x.dtype, -bound, bound)
        own = (layers or {}).get(tuple(k.key for k in path[:-1]))
        return values if own is None else jnp.where(own[:, None, None], values, 0)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def scaled(lora: Any, scale: float) -> Any:
    """The collection with `scale` multiplied into every B: what the network, a merge and a file expect."""
    if scale == 1:
        return lora
    return jax.tree_util.tree_map_with_path(lambda path, x: x * scale if path[-1].key == "b" else x, lora)


def with_dropout(lora: Any, rate: float, keys: Array) -> Any:
    """The collection with what `Linear` needs for dropout beside every adapter. keys: (B,), one per sample.

    Every layer draws from keys of its own, which follow from its path and its number in the stack.
    """

    def walk(node: Any, path: str) -> Any:
        if "a" not in node:
            return {name: walk(child, f"{path}.{name}") for name, child in node.items()}
        stack = node["b"].shape[:-2]  # (L,), or () for a layer that stands alone
        own = jax.vmap(lambda key: named_key(key, path))(keys)  # (B,)
        if stack:
            fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
            own = jax.vmap(fold, in_axes=(None, 0))(own, jnp.arange(*stack))  # (L, B)
        return {**node, "keys": own, "keep": jnp.full(stack, 1 - rate, jnp.float32)}

    return walk(lora, "")


def loaded_lora(config: LoRAConfig, dit: DiTConfig, shapes: Any, seed: int) -> Any:
    """First values from the file `config.init`, host arrays; layers that it lacks get those of `initial_lora`.

    A note names how many layers the file lacks or has beyond the targets. Raises UserError for a file that holds no
    LoRA, another rank, sizes of another model, or none of the targets.
    """
    assert config.init is not None
    targets = targeted(dit_names(dit), config.target_modules)
    wanted = {m: (name, i) for name, hit in targets.items() for i, m in enumerate(modules_of(name)) if hit[i]}
    adapter = load_lora(config.init, [m for name in linear_names(dit_names(dit)) for m in modules_of(name)])
    fitting = {module: pair for module, pair in adapter.pairs.items() if module in wanted}
    require(bool(fitting), f"The LoRA '{config.init}' has none of the layers that lora.target_modules names.")
    ranks = sorted({pair[0].shape[0] for pair in fitting.values()})
    require(
        ranks == [config.rank],
        f"The LoRA '{config.init}' is of rank {', '.join(map(str, ranks))}; set training.dit.lora.rank to it.",
    )
    lacking, more = len(wanted) - len(fitting), len(adapter.pairs) - len(fitting)
    if lacking or more:
        say(f"note: '{config.init}' lacks {lacking} of {len(wanted)} adapted layers, and has {more} others (left out)")
    first = jax.jit(lambda: initial_lora(shapes, seed, adapted_layers(config, dit)))()
    values = jax.tree.map(np.array, jax.device_get(first))
    for module, pair in fitting.items():
        name, i = wanted[module]
        _fill(_at(values, name.path[:-1]), i if name.layers is not None else (), *pair, config)
    return values


def _fill(node: Any, at: Any, a: np.ndarray, b: np.ndarray, config: LoRAConfig) -> None:
    """Put a pair A (rank, in), B (out, rank) of a file, whose scale is in B, into layer `at` of a node."""
    found, own = (b.shape[0], a.shape[1]), (node["b"].shape[-1], node["a"].shape[-2])
    require(found == own, f"The LoRA '{config.init}' is for a layer of {found}, but the model has {own}.")
    node["a"][at], node["b"][at] = a.T, b.T.astype(np.float32) / np.float32(config.scale)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
