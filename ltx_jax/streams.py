"""Streams: one modality's tokens with all that a transformer must know of them, and reductions that skip padding.

Letters: B batch, T tokens, C channels, U distinct noise levels, P distinct positions of one axis, F rotary
frequencies of one axis. Nothing here knows what the tokens mean.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Array = jax.Array
MODALITIES = ("video", "audio")  # the streams of this family, in their order


class Rotary(struct.PyTreeNode):
    """Rotary tables of the distinct positions of each axis, and which of them every token uses.

    cos, sin: one float32 (P, F) array per axis, made on the host (spec transformer.md 5.1: the angle is a float32
    product, its cosine accurate). index: int32 (B or 1, T, axes), rows of those tables.
    """

    cos: tuple[Array, ...]
    sin: tuple[Array, ...]
    index: Array


class Stream(struct.PyTreeNode):
    """One modality's tokens.

    latent: (B, T, C) noisy tokens. sigma: (B,) float32, the sample's noise level (0 when the stream is frozen).
    levels: (B, U) float32, the distinct per-token noise levels; level_index: (B, T) int32 into `levels`, or None
    when U == 1 (tokens share one level; modulation is computed per level and gathered per token).
    rotary: tables of the self-attention; cross_rotary: time-axis tables of the audio-video attention, or None when
    the other stream is absent. keyframes: (B, T) bool, tokens that encode a single pixel frame, or None.
    length: (B,) int32 number of real tokens (padding sits at the tail), or None when all are real.
    groups, weights: (B, T) int32 and float32, which group each token is of and how strongly it and group 0 attend to
    each other (`group_weights`), or None where all tokens see each other. bias: additive self-attention bias
    (B, 1, T or 1, T) float32, or None; dense masks serve small sizes only. enabled: False where the stream is only
    carried along as context of the other one and its own prediction is not wanted.
    """

    latent: Array
    sigma: Array
    levels: Array
    rotary: Rotary
    level_index: Array | None = None
    cross_rotary: Rotary | None = None
    keyframes: Array | None = None
    length: Array | None = None
    groups: Array | None = None
    weights: Array | None = None
    bias: Array | None = None
    enabled: bool = struct.field(pytree_node=False, default=True)

    def attention_bias(self) -> Array | None:
        """What is added to the logits of self-attention, (B, 1, T or 1, T) float32, or None; not both of its sources.

        No kernel knows groups yet, so they become a dense array.
        """
        if self.groups is None or self.weights is None:
            return self.bias
        weights = group_weights(self.groups, self.weights)
        info = jnp.finfo(jnp.float32)
        bias = jnp.where(weights > 0, jnp.log(jnp.maximum(weights, info.tiny)), info.min)
        return bias[:, None]

    def timesteps(self) -> Array:
        """Noise level of every token, (B, T) float32."""
        tokens = self.latent.shape[1]
        if self.level_index is None:
            return jnp.broadcast_to(self.levels[:, :1], (self.latent.shape[0], tokens))
        return jnp.take_along_axis(self.levels, self.level_index, axis=1)

    def with_rows(self, change: Callable[[Array], Array]) -> "Stream":
        """The stream with every array (B, ...) changed; position tables that all rows share stay as they are."""
        tables = lambda r: r if r is None or r.index.shape[0] == 1 else r.replace(index=change(r.index))
        rest = jax.tree.map(change, self.replace(rotary=None, cross_rotary=None))
        return rest.replace(rotary=tables(self.rotary), cross_rotary=tables(self.cross_rotary))

    def padded(self, tokens: int) -> "Stream":
        """The stream with padding at its tail, `tokens` tokens in all; the number of real ones becomes its length."""
        batch, real, _ = self.latent.shape
        if real == tokens:
            return self
        pad = lambda x: pad_tail(x, tokens)
        turn = lambda r: None if r is None else r.replace(index=pad(r.index))
        return self.replace(
            latent=pad(self.latent), level_index=pad(self.level_index), keyframes=pad(self.keyframes),
            groups=pad(self.groups), weights=pad(self.weights), rotary=turn(self.rotary),
            cross_rotary=turn(self.cross_rotary),
            length=jnp.full((batch,), real, jnp.int32) if self.length is None else self.length,
        )  # fmt: skip


def pad_tail(x: Any, tokens: int) -> Any:
    """An array (B, T, ...) with zeros at the tail of axis 1, (B, tokens, ...), on the host if it was there; or None."""
    if x is None:
        return None
    pad = np.pad if isinstance(x, np.ndarray) else jnp.pad
    return pad(x, ((0, 0), (0, tokens - x.shape[1])) + ((0, 0),) * (x.ndim - 2))


def group_weights(groups: Array, weights: Array) -> Array:
    """How strongly tokens attend to each other, (B, T, T) in [0, 1], given `Stream`'s groups and weights (B, T).

    Tokens of one group see each other fully, group 0 and another token by that token's weight, other groups not at all
    (spec sampling.md 8.9).
    """
    same = groups[:, :, None] == groups[:, None]
    target = groups == 0
    across = jnp.where(target[:, :, None], weights[:, None], jnp.where(target[:, None], weights[:, :, None], 0.0))
    return jnp.where(same, 1.0, across)


class TextMemory(struct.PyTreeNode):
    """Keys and values of text that no noise level changes, made once for all steps: (L, B, S, D) of each distinct text.

    rows: which of the texts each group of B rows reads, as in (0, 1, 0): the first one, the second, the first again.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    rows: tuple[int, ...] = struct.field(pytree_node=False, default=(0,))

    def read(self) -> tuple[Array, Array]:
        """Keys and values of one layer, whose axis is gone, for all rows: (rows * B, S, D)."""
        together = lambda texts: texts[0] if self.rows == (0,) else jnp.concatenate([texts[i] for i in self.rows])
        return together(self.keys), together(self.values)


class Context(struct.PyTreeNode):
    """Text seen by one stream: tokens (B, S, E) (connector output) and an additive bias (B, 1, 1 or T, S) or None.

    memory: what blocks would make of the tokens, which then may be None.
    """

    tokens: Any
    bias: Array | None = None
    memory: TextMemory | None = None


def length_mask(length: Array | None, batch: int, tokens: int) -> Array:
    """(B, T) bool: True on real tokens, given lengths (B,) or None for all."""
    if length is None:
        return jnp.ones((batch, tokens), bool)
    return jnp.arange(tokens) < length[:, None]  # (B, T)


def masked_std(x: Array, mask: Array, axis: Any = None) -> Array:
    """Unbiased standard deviation (n - 1) of x where mask is True."""
    mask = jnp.broadcast_to(mask, x.shape)
    count = jnp.sum(mask, axis=axis, keepdims=True)
    mean = jnp.sum(jnp.where(mask, x, 0), axis=axis, keepdims=True) / jnp.maximum(count, 1)
    square = jnp.sum(jnp.where(mask, (x - mean) ** 2, 0), axis=axis)
    return jnp.sqrt(square / jnp.maximum(jnp.squeeze(count, axis) - 1, 1))
