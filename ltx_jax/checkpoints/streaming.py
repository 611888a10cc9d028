"""A part's tensors from files into arrays, one by one: onto the host as a tree, or straight into sharded device arrays.

On the way to devices the host holds one official tensor (of several processes each its own shards), never a stack of
layers: what was read is placed, transposed as it is copied (ten times as fast as a program that would transpose it into
its stack), and a compiled program casts it and writes it into the stack, whose memory it reuses.
"""

import concurrent.futures
import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from ltx_jax.checkpoints.safetensors import Tensors, aligned
from ltx_jax.checkpoints.views import Cast
from ltx_jax.models.quantized import Quantized
from ltx_jax.models.storage import HOST, settled
from ltx_jax.names import Name, folded, insert, to_tree
from ltx_jax.parallel.multihost import is_first

AHEAD = 128 << 20  # bytes that are read before they are wanted, beside a tensor that is dealt with
UNDER_WAY = 64 << 20  # bytes that may be on their way to a device
SHOWN = 1 << 30  # bytes from which on a bar tells how far loading is
Index = tuple[slice, ...]


class PartReader:
    """Reads one part. Called, it gives the tree of host arrays; `place` puts it on devices.

    dtype: that floating tensors are cast to, None as stored.
    """

    def __init__(self, part: str, names: Sequence[Name], tensors: Tensors, prefix: str, dtype: Any = None):
        self.part, self.names, self.prefix = part, names, prefix
        self.tensors = tensors if dtype is None else Cast(tensors, dtype)
        self._stored, self._dtype = tensors, dtype

    def through(self, view: Callable[[Tensors, str], Tensors]) -> "PartReader":
        """A reader of the same part from what `view` makes of its tensors and their prefix."""
        return PartReader(self.part, self.names, view(self.tensors, self.prefix), self.prefix)

    def __call__(self) -> dict[str, Any]:
        """Our parameter tree of the part, on the host."""
        return to_tree(self.names, self.tensors, self.prefix)

    def place(self, shardings: Any) -> dict[str, Any]:
        """Our parameter tree on the devices. shardings: a NamedSharding for each parameter, or a Quantized of them."""
        jobs = [(name, i, self.prefix + official) for name in self.names for i, official in enumerate(name.officials())]
        size = lambda job: self._stored.nbytes(job[2])
        total = sum(map(size, jobs))
        tree: dict[str, Any] = {}
        waiting = 0
        with tqdm(
            total=total, desc=f"loading {self.part}", unit="B", unit_scale=True,
            disable=total < SHOWN or not is_first(),
        ) as bar:  # fmt: skip
            for job, rows in _ahead(jobs, lambda job: self._rows(job, shardings), size):
                leaf = self._place(tree, shardings, job, rows)
                del rows
                waiting += size(job)
                if waiting > UNDER_WAY:  # what is still under way holds on to memory of the host
                    jax.block_until_ready(leaf)
                    waiting = 0
                bar.update(size(job))
        taken = lambda x, target: jax.device_put(x, target) if isinstance(x, np.ndarray) else x
        return jax.block_until_ready(jax.tree.map(taken, tree, shardings))

    def _rows(self, job: tuple[Name, int, str], shardings: Any) -> dict[tuple[int, int], np.ndarray]:
        """The rows of a tensor that this process's devices need, each range read once."""
        name, _, official = job
        shape = self._stored.shape(official)
        if not shape:
            return {(0, 0): self._stored.read(official)}
        indices = one_layer(name, _sharding(shardings, name)).addressable_devices_indices_map(turned(name, shape))
        wanted = {_rows_of(name, index, shape) for index in indices.values() if index is not None}
        found = {rows: self._stored.read(official, rows) for rows in wanted}
        gate = name.gates()[job[1]]
        if gate is not None and self.prefix + gate in self._stored:
            factors = self._stored.read(self.prefix + gate)
            found = {(a, b): folded(array, factors.reshape(-1)[a:b]) for (a, b), array in found.items()}
        return found

    def _place(self, tree: dict[str, Any], shardings: Any, job: tuple[Name, int, str], rows: Any) -> Any:
        name, i, official = job
        target, shape = _at(shardings, name.path), self._stored.shape(official)
        dtype = self.tensors.dtype(official)

        def cut(index: Index) -> np.ndarray:
            if not shape:
                return rows[0, 0]
            held = rows[_rows_of(name, index, shape)]
            view = held if name.axes is None else held.transpose(name.axes)
            return view[tuple(slice(None) if d == _first(name) else part for d, part in enumerate(index))]

        x = jax.make_array_from_callback(turned(name, shape), one_layer(name, _sharding(shardings, name)), cut)
        if name.layers is None:
            leaf = x if x.dtype == dtype and x.sharding == target else _settle(dtype, target)(x)
        else:
            if i == 0:
                types = [self.tensors.dtype(self.prefix + o) for o in name.officials()]
                insert(tree, name.path, _stack(name, target, x, jnp.result_type(*types)))
            leaf = _at(tree, name.path)
            if isinstance(leaf, np.ndarray):
                _bytes(leaf[i : i + 1])[...] = _bytes(np.asarray(x.astype(leaf.dtype)))
            else:
                leaf = _write(target)(leaf, x, np.int32(i))
        insert(tree, name.path, leaf)
        return leaf


def turned(name: Name, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a parameter, of one layer, from that of its official tensor."""
    return shape if name.axes is None else tuple(shape[axis] for axis in name.axes)


def one_layer(name: Name, sharding: NamedSharding) -> NamedSharding:
    """How one layer of a parameter lies on the devices; layers are not spread."""
    spec = tuple(sharding.spec)[name.layers is not None :]
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def _first(name: Name) -> int:
    """Our axis that is the official tensor's first."""
    return 0 if name.axes is None else name.axes.index(0)


def _rows_of(name: Name, index: Index, shape: tuple[int, ...]) -> tuple[int, int]:
    """The rows of an official tensor of `shape` in which the part `index` of the parameter lies."""
    start, stop, _ = index[_first(name)].indices(shape[0])
    return start, stop


def _sharding(shardings: Any, name: Name) -> NamedSharding:
    """How a parameter as it is in the file lies on the devices."""
    target = _at(shardings, name.path)
    return target.values if isinstance(target, Quantized) else target


def _stack(name: Name, target: Any, x: jax.Array, dtype: np.dtype) -> Any:
    """Room for all layers of a parameter of which `x` is one.

    On a CPU it is memory of NumPy's, which asks for large pages and is not filled: XLA's own takes longer to get and to
    set to zero than the file to read.
    """
    shape = (name.layers or 0, *x.shape)
    if isinstance(target, NamedSharding) and target.memory_kind != HOST and _is_one_cpu(target):
        return aligned(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    layer = jax.eval_shape(lambda x: settled(x, target, dtype), x)
    make = lambda: jax.tree.map(lambda s: jnp.zeros((shape[0], *s.shape), s.dtype), layer)
    return jax.jit(make, out_shardings=target)()


def _is_one_cpu(sharding: NamedSharding) -> bool:
    return len(sharding.device_set) == 1 and next(iter(sharding.device_set)).platform == "cpu"


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)  # copying types that NumPy does not know is slow


@functools.lru_cache
def _settle(dtype: np.dtype, target: Any) -> Callable[[jax.Array], Any]:
    return jax.jit(lambda x: settled(x, target, dtype), out_shardings=target)


@functools.lru_cache
def _write(target: Any) -> Callable[..., Any]:
    """Writes one layer into a stack, of the device's memory or the host's."""

    def into(stack: jax.Array, new: jax.Array, sharding: NamedSharding, i: Any) -> jax.Array:
        new = jax.device_put(new, jax.memory.Space.Host) if sharding.memory_kind == HOST else new
        return jax.lax.dynamic_update_index_in_dim(stack, new.astype(stack.dtype), i, 0)

    def write(stack: Any, x: jax.Array, i: Any) -> Any:
        dtype = x.dtype if isinstance(stack, Quantized) else stack.dtype
        return jax.tree.map(functools.partial(into, i=i), stack, settled(x, target, dtype), target)

    return jax.jit(write, donate_argnums=0, out_shardings=target)


def _ahead(jobs: Iterable[Any], read: Callable[[Any], Any], size: Callable[[Any], int]) -> Iterator[tuple[Any, Any]]:
    """Jobs with what was read for each, in order; the next ones are read while the caller deals with those before."""
    waiting: deque[tuple[Any, concurrent.futures.Future[Any]]] = deque()
    held, left = 0, deque(jobs)
    most = AHEAD + max(map(size, left), default=0)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        while left or waiting:
            while left and held + size(left[0]) <= most:
                held += size(left[0])
                waiting.append((left[0], pool.submit(read, left.popleft())))
            job, future = waiting.popleft()
            yield job, future.result()
            del future
            held -= size(job)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
