"""What a device that has run out of memory is told as: how much was planned, and what makes it less."""

import contextlib
from collections.abc import Iterator

import jax

from ltx_jax.bundle import Placed
from ltx_jax.errors import UserError


@contextlib.contextmanager
def one_sentence(placed: Placed) -> Iterator[None]:
    """Turns running out of device memory, while weights are placed or a program runs, into a UserError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(_sentence(placed)) from None


def _sentence(placed: Placed) -> str:
    weights, beside = placed.needs()
    stats = placed.mesh.devices.flat[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    storage = placed.networks.storage
    ways = [
        *["--quantization=int8 (a byte for each number of the linear layers)"] * (storage.quantization is None),
        *["--offload=host (the transformer's layers wait in the host's memory)"] * (storage.offload is None),
        "a smaller --width, --height, --num_frames or --num_samples",
        "more devices (--config.mesh.tensor=N)",
    ]
    return (
        f"A device has run out of memory{f' ({limit / 1e9:.1f} GB)' if limit else ''}: the weights on it take "
        f"{weights / 1e9:.1f} GB and the largest program so far {beside / 1e9:.1f} GB beside them; use "
        f"{', '.join(ways[:-1])} or {ways[-1]}."
    )
