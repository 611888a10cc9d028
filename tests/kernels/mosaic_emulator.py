"""A small model of Hopper in numpy, strict where the hardware is treacherous: it runs the very kernel bodies.

Each warpgroup is a Python thread. Shared memory starts as NaN. A copy from global memory fills its target with NaN when
it is issued and delivers when somebody waits for its barrier; a copy to global memory reads its source only when it is
waited for. A wgmma computes when it is waited for, checks that its operands are still what they were when it was
issued, and its accumulator cannot be read before. A barrier that is waited for in vain, or that runs a phase ahead of a
waiter (which the hardware's parity bit cannot tell), is an error. Reads out of bounds give zeros, writes are dropped.
"""

import contextlib
import threading
import types

import jax
import numpy as np

TIMEOUT = 60.0  # seconds after which a wait is a deadlock
local = threading.local()


class Ref:
    """A view of an array with the indices of `at` not yet applied where they may lie outside (global memory)."""

    def __init__(self, array, index=None, outside=False):
        self.array, self.index, self.outside = array, index, outside

    @property
    def shape(self):
        return self.array.shape

    @property
    def at(self):
        return self

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        if index == (Ellipsis,):
            return self.array
        if self.outside:
            if all(not isinstance(i, slice) for i in index) and len(index) == self.array.ndim:
                return self.array[index]  # a scalar
            return Ref(self.array, index, True)
        return Ref(self.array[tuple(i if isinstance(i, slice) else int(i) for i in index)])

    def __setitem__(self, index, value):
        assert index is Ellipsis
        self.array[...] = value

    def reshape(self, *shape):
        view = self.array.reshape(shape)
        assert np.shares_memory(view, self.array)
        return Ref(view)

    def read(self):
        """The box of global memory that `at` named, zeros outside."""
        shape = [i.stop - i.start for i in self.index if isinstance(i, slice)]
        box = np.zeros(shape, self.array.dtype)
        inside, target = self._clip()
        box[target] = self.array[inside]
        return box

    def write(self, box):
        inside, source = self._clip()
        self.array[inside] = box[source]

    def _clip(self):
        inside, other = [], []
        for i, size in zip(self.index, self.array.shape, strict=True):
            if isinstance(i, slice):
                assert i.start >= 0
                stop = max(min(i.stop, size), i.start)
                inside.append(slice(i.start, stop))
                other.append(slice(0, stop - i.start))
            else:
                inside.append(int(i))
        return tuple(inside), tuple(other)


class Barrier:
    """An mbarrier: phases complete after `arrivals` arrivals; each thread waits for one phase after the other."""

    def __init__(self, arrivals, block):
        self.arrivals, self.block = arrivals, block
        self.count = self.phases = 0
        self.waits = {}
        self.pending = []

    def arrive(self):
        with self.block:
            self._arrive()

    def _arrive(self):
        self.count += 1
        if self.count == self.arrivals:
            self.count, self.phases = 0, self.phases + 1
            self.block.notify_all()

    def copy(self, source, target):
        target.array[...] = np.nan
        with self.block:
            self.pending.append((source, target))
            self.block.notify_all()

    def wait(self):
        me = threading.get_ident()
        with self.block:
            mine = self.waits[me] = self.waits.get(me, 0) + 1
            self._deliver()
            while self.phases < mine:
                assert self.block.wait(TIMEOUT), "deadlock"
                self._deliver()
            assert self.phases == mine, "the barrier ran a phase ahead"

    def _deliver(self):
        for source, target in self.pending:
            target.array[...] = source.read()
            self._arrive()
        self.pending.clear()


class Accumulator:
    """wgmma's registers. queue: products under way in this warpgroup, oldest first."""

    def __init__(self, shape):
        self.array = np.zeros(shape, np.float32)

    @property
    def at(self):
        return self

    def __getitem__(self, index):
        if index is Ellipsis:
            return load(self, wait_n=0)
        part = Accumulator.__new__(Accumulator)
        part.array = self.array[index]
        return part

    def __setitem__(self, index, value):
        assert index is Ellipsis
        assert value.shape == self.array.shape
        self.array[...] = value


def wgmma(acc, left, right):
    left = left.array if isinstance(left, Ref) else left
    then = left.copy(), right.array.copy()
    assert not any(np.isnan(x.astype(np.float32)).any() for x in then), "wgmma reads what was never written"
    local.queue.append((acc.array, left, right.array, *then))


def wait(allowed):
    while len(local.queue) > allowed:
        acc, left, right, left_then, right_then = local.queue.pop(0)
        assert np.array_equal(left, left_then), "an operand in use was overwritten"
        assert np.array_equal(right, right_then), "an operand in use was overwritten"
        acc += left.astype(np.float32) @ right.astype(np.float32)


def load(acc, wait_n):
    wait(wait_n)
    assert not any(np.shares_memory(acc.array, entry[0]) for entry in local.queue), "an accumulator in use is read"
    return acc.array.copy()


def fetch(source, target, barrier):
    barrier.copy(source, target)


def send(source, target):
    local.sent.append((source, target))


def wait_sent(allowed):
    assert allowed == 0
    for source, target in local.sent:
        target.write(source.array)
    local.sent.clear()


def kernel(body, *, out_type, grid, grid_names, num_threads, **_):
    """Runs the grid's blocks one after the other, a thread for each warpgroup."""

    def blocks(*arguments):
        arrays = [np.asarray(x) for x in arguments]
        outputs = [np.full(x.shape, np.nan, x.dtype) for x in out_type]
        refs = [Ref(x, outside=True) for x in (*arrays, *outputs)]
        for place in np.ndindex(*grid):
            _run_block(body, refs, dict(zip(grid_names, place, strict=True)), num_threads)
        return outputs

    return lambda *arguments: jax.pure_callback(blocks, out_type, *arguments)


def _run_block(body, refs, place, threads):
    shared = types.SimpleNamespace(block=threading.Condition(), scratch=None, gate=threading.Barrier(threads))
    errors = []

    def warpgroup(wg):
        local.queue, local.sent, local.place, local.shared = [], [], place | {"wg": wg}, shared
        try:
            with np.errstate(all="ignore"):
                body(*refs)
            assert not local.queue
            assert not local.sent
        except Exception as error:  # told by the main thread
            errors.append(error)
            shared.gate.abort()

    workers = [threading.Thread(target=warpgroup, args=(wg,)) for wg in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def run_scoped(body, *scratch, collective_axes=None):
    if collective_axes is None:
        return body(*(make(None) for make in scratch))
    shared = local.shared
    if local.place["wg"] == 0:
        shared.scratch = [None if make is None else make(shared.block) for make in scratch]
    shared.gate.wait(TIMEOUT)
    return body(*shared.scratch)


def smem(shape, dtype, transforms=()):
    del transforms
    return lambda _: Ref(np.full(shape, np.nan, dtype))


def barrier(num_arrivals=1, num_barriers=1):
    return lambda block: Ref(np.array([Barrier(num_arrivals, block) for _ in range(num_barriers)], object))


class Layout:
    """Layouts are the compiler's business: all are None here."""

    def __getattr__(self, name):
        return types.SimpleNamespace(reduce=lambda axis: None)


def loop(start, stop):
    return lambda body: [body(np.int32(n)) for n in range(int(start), int(stop))]


def fori_loop(start, stop, body, carry):
    for n in range(int(start), int(stop)):
        carry = body(np.int32(n), carry)
    return carry


def broadcast_in_dim(x, shape, dimensions):
    return np.broadcast_to(x[:, None] if dimensions == [0] else x[None, :], shape)


class Tiling:
    def __init__(self, tiling):
        assert tiling == (8, 64)

    def undo(self, _):
        return self


plgpu = types.SimpleNamespace(
    SMEM=smem,
    Barrier=barrier,
    WGMMAAccumulatorRef=lambda shape: lambda _: Accumulator(shape),
    SwizzleTransform=lambda bytes: None,
    TilingTransform=Tiling,
    transform_ref=lambda ref, _: ref.reshape(ref.shape[0] * 8, 64),
    transpose_ref=lambda ref, axes: Ref(ref.array.transpose(axes)),
    copy_gmem_to_smem=lambda source, target, barrier: fetch(source, target, barrier.array),
    copy_smem_to_gmem=send,
    wait_smem_to_gmem=wait_sent,
    commit_smem=lambda: None,
    barrier_wait=lambda barrier: barrier.array.wait(),
    barrier_arrive=lambda barrier: barrier.array.arrive(),
    wgmma=wgmma,
    wgmma_accumulator_load=load,
    set_max_registers=lambda count, action: None,
    layout_cast=lambda x, layout: x,
    load=lambda ref, index, layout: ref.array.copy(),
    broadcasted_iota=lambda dtype, shape, axis, layout: np.broadcast_to(
        np.arange(shape[axis], dtype=dtype).reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape
    ),
    Layout=Layout(),
    CompilerParams=lambda **_: None,
    kernel=kernel,
)
pl = types.SimpleNamespace(
    ds=lambda start, size: slice(int(start), int(start) + size),
    when=lambda condition: lambda body: body() if condition else None,
    loop=loop,
    run_scoped=run_scoped,
)
lax = types.SimpleNamespace(
    axis_index=lambda name: np.int32(local.place[name]),
    rem=lambda a, b: a % b,
    div=lambda a, b: a // b,
    fori_loop=fori_loop,
    broadcast_in_dim=broadcast_in_dim,
    optimization_barrier=lambda x: x,
)


@contextlib.contextmanager
def emulated(monkeypatch, *modules):
    """Inside, the modules' kernels run here: their `plgpu`, `pl`, `lax` and `jnp` are this model and numpy."""
    with monkeypatch.context() as patch:
        for module in modules:
            for name, value in (("plgpu", plgpu), ("pl", pl), ("lax", lax), ("jnp", np)):
                if hasattr(module, name):
                    patch.setattr(module, name, value)
        yield
