"""What an attention call is, apart from its arrays."""

import dataclasses
from typing import Literal

import jax
from flax import struct

Implementation = Literal["auto", "reference", "blocked", "tpu", "gpu", "cudnn"]
Context = Literal["auto", "gather", "ring", "ulysses", "hybrid"]


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Static description of one attention call (hashable; equal specs share a compiled program).

    scale: multiplies q k^T; None means 1/sqrt(K). causal: key index <= query index. window: with `causal`, keys
    within the last `window` positions, the query's own included. implementation: "auto" chooses by device and size.
    query_tokens, key_tokens: logical names of the token axes (parallel/rules.py), which say whether they are sharded.
    context: how sharded queries meet sharded keys (context.py); "gather" lets every device hold all keys.
    """

    scale: float | None = None
    causal: bool = False
    window: int | None = None
    implementation: Implementation = "auto"
    query_tokens: str = "tokens"
    key_tokens: str = "tokens_replicated"
    context: Context = "auto"


class Mask(struct.PyTreeNode):
    """Which keys a query sees. All parts are optional and combine.

    length: (B,) int32, keys at or beyond it are padding. keep: (B, S) bool, False hides a key from all queries.
    bias: additive, (B or 1, N or 1, T or 1, S) float32. A query that sees no key at all gets zeros.
    """

    length: jax.Array | None = None
    keep: jax.Array | None = None
    bias: jax.Array | None = None
