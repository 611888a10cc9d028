"""How a model's weights lie on the devices for inference: in how many bytes, and in whose memory.

Both are said once, by `Storage`, and are seen in the parameters themselves: a kernel is then a `Quantized`, or an array
in the memory of the host. The transformer's layers that lie there are brought to the device one by one, see
`stream_layers`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from ltx_jax.errors import require
from ltx_jax.models.quantized import KINDS, Quantized, quantize

HOST = "pinned_host"  # the kind of memory
QUANTIZED = ("text", "connectors", "transformer")  # the parts whose linear layers are quantised: nearly all bytes
_AS_THEY_ARE = ("patchify_proj", "proj_out", "to_gate_logits")  # small; they read and make latents, and gate heads
_CONVOLUTIONS = ("conv_in", "conv_out")
_SPELLINGS = {"fp8-cast": "fp8", "cpu": "host", "none": None}  # of the official command line


@dataclasses.dataclass(frozen=True)
class Storage:
    """quantization: a key of KINDS, or None for the types of the file. offload: "host" keeps the kernels of the
    transformer's layers in the host's memory and lets every other part go from the device when it has been used; None
    keeps all there.

    Raises UserError for others; the official spellings "fp8-cast", "cpu" and "none" are known.
    """

    quantization: str | None = None
    offload: str | None = None

    def __post_init__(self):
        for field, known in (("quantization", tuple(KINDS)), ("offload", ("host",))):
            given = getattr(self, field)
            found = _SPELLINGS.get(given, given) if given is not None else None
            require(
                found is None or found in known,
                f"--{field}={given} is not offered here; choose {' or '.join(f'--{field}={name}' for name in known)}.",
            )
            object.__setattr__(self, field, found)

    def quantized(self, part: str, shapes: Any, axes: Any) -> tuple[Any, Any]:
        """Shapes and logical axes of a part's parameters as they are stored, of the networks' own."""
        kind = self.quantization
        if kind is None or part not in QUANTIZED:
            return shapes, axes
        is_leaf = lambda x: isinstance(x, tuple)

        def shape(path: Any, names: tuple[str | None, ...], x: Any) -> Any:
            return jax.eval_shape(lambda w: quantize(w, kind), x) if _is_linear(path, names) else x

        def named(path: Any, names: tuple[str | None, ...]) -> Any:
            return Quantized(names, (*names[:-2], names[-1]), kind) if _is_linear(path, names) else names

        stored = jax.tree_util.tree_map_with_path(shape, axes, shapes, is_leaf=is_leaf)
        return stored, jax.tree_util.tree_map_with_path(named, axes, is_leaf=is_leaf)

    def placed(self, part: str, shardings: Any) -> Any:
        """Where a part's parameters lie, from where they would on the devices."""
        if self.offload is None or part != "transformer":
            return shardings
        moved = lambda s: s.replace(values=_to_host(s.values)) if isinstance(s, Quantized) else _to_host(s)
        large = lambda path: _keys(path)[-1] == "kernel" and not {*_keys(path)} & {*_AS_THEY_ARE}
        of_layer = lambda path, s: moved(s) if large(path) else s
        is_leaf = lambda x: isinstance(x, Quantized)
        blocks = jax.tree_util.tree_map_with_path(of_layer, shardings["blocks"], is_leaf=is_leaf)
        return {**shardings, "blocks": blocks}

    def stays(self, part: str) -> bool:
        """Whether a part that has been used is kept for the next time."""
        return self.offload is None or part == "transformer"


class _OnHost(NamedSharding):
    """In the host's memory of devices that are only described: those name no kinds of memory, and JAX forgets one that
    is not named."""

    @property
    def memory_kind(self) -> str:
        return HOST


def _to_host(sharding: NamedSharding) -> NamedSharding:
    moved = sharding.with_memory_kind(HOST)
    return moved if moved.memory_kind == HOST else _OnHost(sharding.mesh, sharding.spec)


def _is_linear(path: Any, names: tuple[str | None, ...]) -> bool:
    """Whether a parameter is the kernel of a linear layer that is quantised."""
    keys = _keys(path)
    axes = len(names) - ("layers" in names)
    return keys[-1] == "kernel" and axes == 2 and not {*names} & {*_CONVOLUTIONS} and not {*keys} & {*_AS_THEY_ARE}


def _keys(path: Any) -> list[str]:
    return [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]


def settled(x: jax.Array, target: Any, dtype: Any) -> Any:
    """A parameter (or one layer of it) as it is stored: cast to `dtype`, or quantised where the target is.

    target: the sharding, or a Quantized of shardings.
    """
    return quantize(x, target.kind) if isinstance(target, Quantized) else x.astype(dtype)


def put(params: Any, shardings: Any) -> Any:
    """Host arrays on the devices, quantised where the tree of shardings says so."""

    def one(target: NamedSharding | Quantized, x: Any) -> Any:
        if isinstance(target, Quantized):
            return jax.device_put(jax.jit(settled, static_argnums=(1, 2))(x, target, x.dtype), target)
        return jax.device_put(x, target)

    return jax.tree.map(one, shardings, params, is_leaf=lambda s: isinstance(s, Quantized))


def in_host_memory(tree: Any) -> bool:
    """Whether arrays of a tree, traced ones too, lie in the host's memory."""
    return any(jax.typeof(x).memory_space == jax.memory.Space.Host for x in jax.tree.leaves(tree))


def on_device(tree: Any) -> Any:
    """Arrays brought to the device from wherever they lie; traced code calls it."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device), tree)


def stream_layers(step: Callable[[Any, Any, Any], Any], carry: Any, layers: Any, others: Any, count: int) -> Any:
    """carry = step(carry, layer, other) for each of `count` layers, stacked in `layers` and `others`.

    The kernels of `layers` lie in the host's memory: the next layer is on its way while one works, so the device holds
    two of them.
    """

    def fetch(i: Any) -> Any:
        return on_device(jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), layers))

    def body(held: Any, inputs: Any) -> Any:
        (carry, layer), (i, other) = held, inputs
        following = fetch(jnp.minimum(i + 1, count - 1))
        return (step(carry, layer, other), following), None

    (carry, _), _ = jax.lax.scan(body, (carry, fetch(0)), (jnp.arange(count), others))
    return carry
