"""The front door of attention: every network calls `attention`, and only here is an implementation chosen."""

import jax

from ltx_jax.kernels.blocked import blocked_attention
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.spec import AttentionSpec, Mask


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask = Mask(), spec: AttentionSpec = AttentionSpec()
) -> jax.Array:
    """Multi-head attention. q: (B, T, N, K); k, v: (B, S, G, K) with N a multiple of G (grouped heads are repeated).

    Returns (B, T, N, K) in q's dtype; scores and softmax statistics are float32. See AttentionSpec and Mask.
    """
    groups = q.shape[2] // k.shape[2]
    if groups * k.shape[2] != q.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads are not a multiple of {k.shape[2]} key heads")
    if groups > 1:
        k, v = (jax.numpy.repeat(x, groups, axis=2) for x in (k, v))  # contiguous: head n reads n // groups
    return _IMPLEMENTATIONS[_choose(q.shape[1], k.shape[1], spec)](q, k, v, mask, spec)


_IMPLEMENTATIONS = {"reference": reference_attention, "blocked": blocked_attention}
SMALL = 1024 * 1024  # query-key pairs up to which the plain form is as good and simpler to differentiate


def _choose(queries: int, keys: int, spec: AttentionSpec) -> str:
    if spec.implementation != "auto":
        return spec.implementation
    return "reference" if queries * keys <= SMALL else "blocked"
