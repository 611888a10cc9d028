"""Named random streams: one root seed, folded with a stable hash of a name and with integers.

Nothing random is stored: the key of step 1000 follows from (seed, name, 1000), so a resumed run draws what an
uninterrupted one would have drawn.
"""

import zlib

import jax
import numpy as np


def stream_id(name: str) -> int:
    """A 31-bit number for `name`, equal on every machine and in every Python process."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def named_key(seed: int | jax.Array, name: str, *steps: int | jax.Array) -> jax.Array:
    """The key of the stream `name` under the root `seed` (an int or a key), folded with each of `steps`."""
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    key = jax.random.fold_in(key, stream_id(name))
    for step in steps:
        key = jax.random.fold_in(key, step)
    return key


def numpy_rng(seed: int, name: str, *steps: int) -> np.random.Generator:
    """The same idea for host-side draws (data order, augmentation): a NumPy generator of (seed, name, steps)."""
    return np.random.default_rng([seed & 0xFFFFFFFF, stream_id(name), *steps])
