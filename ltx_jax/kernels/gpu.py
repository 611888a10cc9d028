"""Attention on CUDA cards: the Hopper kernels where card and call allow, else the Triton ones; and cuDNN by name."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from ltx_jax.kernels.gpu_triton import triton_attention, triton_backward, unsupported
from ltx_jax.kernels.gpu_triton_tiles import triton_tile
from ltx_jax.kernels.spec import AttentionSpec, Mask

__all__ = ["cudnn_attention", "gpu_attention", "gpu_backward", "unsupported"]

Array = jax.Array
PLATFORMS = ("gpu", "cuda")  # how JAX spells the platform of a card that is here, or of a described one
HOPPER = ("H100", "H200", "H800", "H20", "GH200")  # parts of the device kinds of compute capability 9.0


def gpu_attention(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, *, device_kind: str = "", interpret: bool = False
) -> tuple[Array, Array]:
    """softmax(scale q k^T + bias) v, (B, T, N, K) in q's dtype, and the log-sum-exp of each row's scores, (B, N, T)
    float32, -1e30 where no key is seen. q: (B, T, N, K); k, v: (B, S, N, K).

    device_kind: the card as JAX spells it, which picks kernels and block sizes. Differentiable in q, k, v (not in the
    bias). Raises NotImplementedError for what `unsupported` names.
    """
    hopper = None if interpret else _hopper(device_kind, q, k, v, mask, spec)
    if hopper is not None:
        return hopper.hopper_attention(q, k, v, mask, spec)
    tile = triton_tile(device_kind, q.shape[3], q.dtype)
    return triton_attention(q, k, v, mask, spec, tile=tile, interpret=interpret)


def gpu_backward(
    q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec, lse: Array, delta: Array, d_out: Array,
    *, device_kind: str = "", interpret: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """dq, dk, dv of rows whose log-sum-exp over all their keys, here or elsewhere, is lse: (B, N, T) float32.

    delta: rowsum(d_out out) minus the cotangent of lse, (B, N, T) float32. d_out: (B, T, N, K).
    """
    hopper = None if interpret else _hopper(device_kind, q, k, v, mask, spec)
    if hopper is not None:
        return hopper.hopper_backward(q, k, v, mask, spec, lse, delta, d_out)
    tile = triton_tile(device_kind, q.shape[3], q.dtype)
    return triton_backward(q, k, v, mask, spec, lse, delta, d_out, tile=tile, interpret=interpret)


def cudnn_attention(q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec) -> Array:
    """The same by cuDNN, through `jax.nn.dot_product_attention`: for comparison, never chosen by itself.

    Takes bfloat16 and float16; a key mask becomes a dense one of (B, 1, T, S). A sample without keys gives zeros;
    hidden keys and values must be finite.
    """
    seen = None if mask.keep is None else jnp.broadcast_to(
        mask.keep[:, None, None, :], (q.shape[0], 1, q.shape[1], k.shape[1])
    )  # fmt: skip
    window: Any = (spec.window - 1, 0) if spec.causal and spec.window is not None else None
    out = jax.nn.dot_product_attention(
        q, k, v, bias=None if mask.bias is None else mask.bias.astype(q.dtype), mask=seen, scale=spec.scale,
        is_causal=spec.causal, key_value_seq_lengths=mask.length, local_window_size=window, implementation="cudnn",
    )  # fmt: skip
    return out if mask.length is None else jnp.where(mask.length[:, None, None, None] > 0, out, 0)


def _hopper(device_kind: str, q: Array, k: Array, v: Array, mask: Mask, spec: AttentionSpec) -> ModuleType | None:
    """The module of the Hopper kernels where card and call allow them (imported there alone: it takes a second)."""
    if not any(name in device_kind for name in HOPPER):
        return None
    from ltx_jax.kernels import gpu_hopper

    return gpu_hopper if gpu_hopper.unsupported(q, k, v, mask, spec) is None else None
