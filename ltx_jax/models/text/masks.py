"""Which tokens a text token attends to (spec gemma.md sections 3 and 5)."""

import jax
import jax.numpy as jnp

from ltx_jax.kernels.reference import visible
from ltx_jax.kernels.spec import AttentionSpec, Mask

Array = jax.Array
HIDDEN = -1e30  # additive: finite, so that nothing turns to NaN


def visible_pairs(mask: Array, window: int | None = None, token_types: Array | None = None) -> Array:
    """(B, S, S) bool, [b, query, key]: True where the query may attend.

    mask: (B, S), nonzero = real token. A key must be real and not ahead of the query, and in a local layer within the
    last `window` positions, the query's own included. token_types: (B, S), 1 = image soft token; the tokens of one
    contiguous run of them also see each other ahead (in a local layer still not beyond the window behind).
    """
    tokens = mask.shape[1]
    keep = Mask(keep=mask != 0)
    if token_types is None:
        pairs = visible(keep, AttentionSpec(causal=True, window=window), tokens, tokens)
        assert pairs is not None  # causal attention always has a mask
        return pairs[:, 0]
    position = jnp.arange(tokens)
    behind = position[:, None] - position[None, :]  # (S, S): query minus key
    pairs = (behind >= 0) | _same_block(token_types)
    if window is not None:
        pairs = pairs & (behind < window)
    return pairs & keep.keep[:, None, :]  # type: ignore[index]


def window_bias(tokens: int, window: int) -> Array:
    """(1, 1, S, S) float32 to add to causal scores: 0 within the last `window` positions and HIDDEN elsewhere."""
    return jnp.where(visible_pairs(jnp.ones((1, tokens)), window), 0.0, HIDDEN)[:, None]


def slot_bias(slot: Array, tokens: int, slots: int, window: int | None = None) -> Array:
    """(1, 1, T, C) float32 to add to the scores of T tokens in the slots from `slot` on of a cache of C.

    0 for slots not ahead of the token, and within the last `window` slots where given; HIDDEN elsewhere.
    """
    behind = slot + jnp.arange(tokens)[:, None] - jnp.arange(slots)  # (T, C): query minus key
    seen = behind >= 0 if window is None else (behind >= 0) & (behind < window)
    return jnp.where(seen, 0.0, HIDDEN)[None, None]


def _same_block(token_types: Array) -> Array:
    """(B, S, S) bool: query and key are image tokens of one contiguous run."""
    image = token_types == 1
    starts = image & ~jnp.pad(image, ((0, 0), (1, 0)))[:, :-1]
    block = jnp.where(image, jnp.cumsum(starts, axis=1), 0)  # (B, S), 0 = text
    return (block[:, :, None] == block[:, None, :]) & image[:, :, None]
