"""One device's attention as a pair of functions, whichever kernel runs: ring, all-to-all and merged forms stand on it.

The forward half returns statistics, the backward half takes those of the whole row, so that a device may hold any part
of a row's keys. Letters: T queries and S keys of this device.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from ltx_jax.kernels import blocked, gpu, tpu
from ltx_jax.kernels.prologue import Side
from ltx_jax.kernels.softmax import LOG2E
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import Tile

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel and its static settings (hashable).

    tile: of the TPU kernel; device_kind: of the GPU's, which looks its own up; block, looped: of the blocked
    form (looped: one head after the other, as a CPU wants it).
    """

    name: Literal["blocked", "tpu", "gpu"]
    spec: AttentionSpec = AttentionSpec()
    tile: Tile | None = None
    device_kind: str = ""
    interpret: bool = False
    block: int = blocked.BLOCK
    looped: bool = False

    def forward(self, q: Array, k: Array, v: Array, mask: Mask) -> tuple[Array, Array]:
        """Output (B, T, N, K) in q's dtype and log-sum-exp (B, N, T) float32. q: (B, T, N, K); k, v: (B, S, N, K)."""
        if self.name == "tpu":
            settings = {"tile": self.tile, "interpret": self.interpret}
            return tpu.tpu_attention(q, k, v, mask, self.spec, **settings)
        if self.name == "gpu":
            settings = {"device_kind": self.device_kind, "interpret": self.interpret}
            return gpu.gpu_attention(q, k, v, mask, self.spec, **settings)
        return blocked.blocked_attention_with_statistics(q, k, v, mask, self.spec, self.block, self.looped)

    def forward_with_prologue(
        self, q: Array, k: Array, v: Array, sides: tuple[Side, Side], gates: Array | None, mask: Mask
    ) -> tuple[Array, Array]:
        """As `forward` of `prologue.prepare`d q and k, the output times gates (B, T, N). The kernel "tpu" alone."""
        settings = {"tile": self.tile, "interpret": self.interpret}
        return tpu.tpu_forward_with_prologue(q, k, v, sides, gates, mask, self.spec, **settings)

    def backward(
        self, q: Array, k: Array, v: Array, mask: Mask, lse: Array, delta: Array, d_out: Array
    ) -> tuple[Array, Array, Array]:
        """dq, dk, dv. lse: (B, N, T) of a row over all its keys, wherever they are; delta: `softmax.row_products`."""
        if self.name == "tpu":
            settings = {"tile": self.tile, "interpret": self.interpret}
            return tpu.tpu_backward(q, k, v, mask, self.spec, lse, delta, d_out, **settings)
        if self.name == "gpu":
            settings = {"device_kind": self.device_kind, "interpret": self.interpret}
            return gpu.gpu_backward(q, k, v, mask, self.spec, lse, delta, d_out, **settings)
        return blocked.blocked_backward(q, k, v, mask, self.spec, lse, delta, d_out, self.block, self.looped)

    def scaled(self, width: int) -> tuple["Kernel", float]:
        """This kernel for queries (of head width `width`) that carry their scale, and the factor to multiply into them.

        For loops over parts of the keys; a query gradient of the result wants the factor too.
        """
        scale = width**-0.5 if self.spec.scale is None else self.spec.scale
        unit = LOG2E if self.name == "tpu" else 1.0  # what the kernel itself multiplies in
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, scale=1 / unit)), scale * unit


def merge(total: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[Array, Array]:
    """Attention over two sets of keys from that over either: (output (B, T, N, K) float32, log-sum-exp (B, N, T)).

    Rows that see nothing stay zeros with HIDDEN.
    """
    (out, lse), (other, other_lse) = total, part
    both = jnp.logaddexp(lse, other_lse)
    share = lambda x: jnp.exp(x - both).transpose(0, 2, 1)[..., None]  # (B, T, N, 1)
    return out.astype(jnp.float32) * share(lse) + other.astype(jnp.float32) * share(other_lse), both
