"""One loaded model: its parts, each a network with parameters that are read when first used."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ltx_jax.errors import UserError
from ltx_jax.models.layers import abstract_params, init_params
from ltx_jax.models.storage import HOST, Storage, put
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.parallel.program import Program, with_shardings
from ltx_jax.parallel.rules import param_shardings
from ltx_jax.parts import Part, find_part, parts_of
from ltx_jax.releases import Release
from ltx_jax.rng import named_key


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a release by part; see `make_networks`. They hold no parameters.

    dtype: of the computation. storage: how the weights lie on the devices.
    """

    release: Release
    modules: Mapping[str, nn.Module]
    dtype: Any
    storage: Storage = Storage()

    def __getitem__(self, part: str) -> nn.Module:
        return self.modules[part]

    def replaced(self, **modules: nn.Module) -> "Networks":
        """These networks with others in the place of some."""
        return dataclasses.replace(self, modules={**self.modules, **modules})

    def apply(self, params: Mapping[str, Any], part: str, *inputs: Any, method: str | None = None) -> Any:
        """What the network of `part` makes of `inputs` with its parameters in `params` (by part)."""
        return self.modules[part].apply({"params": params[part]}, *inputs, method=method)


def make_networks(
    release: Release, dtype: Any = jnp.float32, param_dtype: Any = jnp.float32, *, platform: str = ""
) -> Networks:
    """The network of every part of `release`, computing in `dtype` on parameters of `param_dtype`.

    platform: of the mesh's devices; on "cpu" video convolutions take the form that is fastest there.
    """
    rows = [part for part in parts_of(release) if part.network is not None]
    made = {p.name: p.network(p.config_of(release), dtype, param_dtype, platform) for p in rows if p.network}
    return Networks(release, made, dtype)


def networks_on(
    mesh: Mesh, release: Release, dtype: Any = jnp.float32, param_dtype: Any = jnp.float32, storage: Storage = Storage()
) -> Networks:
    """`make_networks` in the form that suits the mesh's devices, on weights that lie as `storage` says."""
    made = make_networks(release, jnp.dtype(dtype), jnp.dtype(param_dtype), platform=mesh.devices.flat[0].platform)
    return dataclasses.replace(made, storage=storage)


def abstract_parts(networks: Networks, parts: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes (ShapeDtypeStructs) and logical axes of the parameters of `parts`, by part. A mesh must be set.

    Statistics are float32.
    """
    shapes, axes = {}, {}
    for part in parts:
        row = find_part(networks.release, part)
        if row.width is not None:
            width = row.width(row.config_of(networks.release))
            shapes[part] = {name: jax.ShapeDtypeStruct((width,), jnp.float32) for name in ("mean", "std")}
            axes[part] = {name: (None,) for name in ("mean", "std")}
        else:
            shapes[part], axes[part] = _abstract(networks[part], row, networks.release)
    return shapes, axes


@functools.lru_cache(maxsize=256)
def _abstract(module: nn.Module, row: Part, release: Release) -> tuple[Any, Any]:
    """Kept, for it takes seconds and is asked for when files are checked, when weights are placed, and by programs."""
    return abstract_params(module, *row.inputs(release))


def abstract_weights(
    networks: Networks, parts: Sequence[str], mesh: Mesh, weights: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Shapes and shardings of `parts`, statistics among them, by the rules table and as the networks' storage says.

    Of the dtypes that `weights` (arrays by part) have, else of the networks' own.
    """
    with jax.set_mesh(mesh):
        shapes, axes = abstract_parts(networks, parts)
    for part in parts:
        shapes[part], axes[part] = networks.storage.quantized(part, shapes[part], axes[part])
    if weights is not None:
        dtypes = {part: weights[part] for part in shapes}
        shapes = jax.tree.map(lambda x, w: jax.ShapeDtypeStruct(x.shape, w.dtype), shapes, dtypes)
    shardings = param_shardings(axes, shapes, mesh)
    return with_shardings(shapes, {part: networks.storage.placed(part, shardings[part]) for part in parts})


def initial_parts(networks: Networks, parts: Sequence[str], seed: int) -> dict[str, Any]:
    """Random parameters of `parts`, by part; to be traced by `jit`. A part's values depend on (seed, part) alone."""
    release, params = networks.release, {}
    for part in parts:
        row, key = find_part(release, part), named_key(seed, f"init.{part}")
        params[part] = row.begin(row.config_of(release), init_params(networks[part], key, *row.inputs(release)))
    return params


def place_parts(networks: Networks, params: Mapping[str, Any], parts: Sequence[str], mesh: Mesh) -> dict[str, Any]:
    """`parts` of `params` on the devices of `mesh`, each sharded as the rules say, the statistics replicated.

    What can be read again is let go of on the host as soon as it is placed.
    """
    abstract, placed = abstract_weights(networks, parts, mesh), {}
    for part in parts:
        shardings = jax.tree.map(lambda x: x.sharding, abstract[part])
        if isinstance(params, LazyParts):
            placed[part] = params.place(part, shardings)
        else:
            placed[part] = put(params[part], shardings)
    return placed


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A program, compiled, and the weights that it runs with."""

    program: Program
    run: jax.stages.Compiled
    weights: Any

    def __call__(self, *inputs: Any) -> Any:
        """What it makes of `inputs`, of the host or placed, where the weights are its first argument."""
        return self.run(self.weights, *inputs)


class Placed:
    """A model on a mesh: weights are placed when first used, a part at a time, and programs compiled once by shape."""

    def __init__(self, networks: Networks, params: Mapping[str, Any], mesh: Mesh):
        self.networks, self.params, self.mesh = networks, params, mesh
        self._programs: dict[Any, tuple[Program, jax.stages.Compiled]] = {}
        self._weights: dict[str, Any] = {}
        self._asked: tuple[str, ...] = ()

    def use(self, params: Mapping[str, Any]) -> None:
        """Run with other parameters from now on; nothing is compiled again. Parts that both have of the same files stay
        where they are: to put a LoRA to a model reads nothing but what it touches."""
        before, placed = self.params, self._weights
        self.params, self._weights = params, {}
        if isinstance(params, LazyParts) and isinstance(before, LazyParts):
            same = lambda part: part in params and params.loader(part) is before.loader(part)
            self._weights = {part: weights for part, weights in placed.items() if same(part)}

    def forget(self) -> None:
        """Let go of the weights on the devices."""
        self._weights = {}

    def weights(self, parts: Sequence[str]) -> dict[str, Any]:
        """The parameters of `parts` on the devices."""
        self._asked = tuple(parts)
        stays = self.networks.storage.stays
        self._weights = {part: x for part, x in self._weights.items() if stays(part) or part in parts}
        missing = [part for part in parts if part not in self._weights]
        if missing:
            self._weights |= place_parts(self.networks, self.params, missing, self.mesh)
        return {part: self._weights[part] for part in parts}

    def needs(self) -> tuple[int, int]:
        """Bytes on one device of the weights there and those last asked for, and of what the largest of the programs
        takes beside its weights."""
        parts = dict.fromkeys([*self._weights, *self._asked])
        leaves = jax.tree.leaves(abstract_weights(self.networks, list(parts), self.mesh))
        sizes = [_local_bytes(x) for x in leaves if x.sharding.memory_kind != HOST]
        stats: list[Any] = [run.memory_analysis() for _, run in self._programs.values()]
        beside = [s.temp_size_in_bytes + s.output_size_in_bytes - s.alias_size_in_bytes for s in stats if s]
        return sum(sizes), max(beside, default=0)

    def load(self, make: Callable[..., Program], parts: Sequence[str], *arguments: Any) -> Loaded:
        """The program make(networks, *arguments, mesh, weights), compiled once for such arguments, with its weights."""
        weights = self.weights(parts)
        key = (make.__name__, _signature(arguments), _signature(weights))
        if key not in self._programs:
            program = make(self.networks, *arguments, self.mesh, weights)
            self._programs[key] = (program, program.compile())
        return Loaded(*self._programs[key], weights)


def _local_bytes(x: jax.ShapeDtypeStruct) -> int:
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _signature(tree: Any) -> Any:
    """What a program depends on of its arguments: all but the values of arrays."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((x.shape, str(x.dtype)) if hasattr(x, "shape") else x for x in leaves)


class LazyParts(Mapping[str, Any]):
    """Parameters by part, each read by its loader at first use and kept until dropped.

    A loader gives host arrays when it is called; one with a method `place` can bring them to devices by itself.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], Any]]):
        self._loaders = dict(loaders)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, part: str) -> Any:
        if part not in self._loaded:
            self._loaded[part] = self.loader(part)()
        return self._loaded[part]

    def loader(self, part: str) -> Any:
        """What reads `part`."""
        if part not in self._loaders:
            raise UserError(f"The checkpoint has no part '{part}'.")
        return self._loaders[part]

    def changed(self, loaders: Mapping[str, Callable[[], Any]]) -> "LazyParts":
        """These parts with other loaders for some; nothing of them is loaded yet."""
        return LazyParts({**self._loaders, **loaders})

    def place(self, part: str, shardings: Any) -> Any:
        """`part` on the devices; the host keeps nothing of it."""
        stream = getattr(self.loader(part), "place", None)
        if stream is not None and part not in self._loaded:
            return stream(shardings)
        placed = jax.block_until_ready(put(self[part], shardings))
        self.drop(part)
        return placed

    def __contains__(self, part: object) -> bool:
        return part in self._loaders  # Mapping's own would read it

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def drop(self, part: str) -> None:
        """Forget the loaded parameters of `part`; they are read again if needed."""
        self._loaded.pop(part, None)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model: its declaration, its parameters by part (see parts.py), and the tokenizer of its text encoder.

    distilled: made to be sampled in few steps without guidance.
    """

    release: Release
    params: Mapping[str, Any]
    tokenizer: Tokenizer | None = None
    distilled: bool = False
