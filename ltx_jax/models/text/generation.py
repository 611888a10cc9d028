"""Writing text with a Gemma decoder: a cache of keys and values, a token at a time, in one compiled loop (spec gemma.md
section 6).

Letters: B texts, S tokens of the prompt, C slots (the prompt's and those to be written), V vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ltx_jax.errors import require
from ltx_jax.models.layers import Array
from ltx_jax.models.text.gemma3 import Gemma3


@dataclasses.dataclass(frozen=True)
class Writing:
    """How tokens are chosen. temperature: of the draw; 0 takes the most likely token. top_k: so many of the most likely
    ones may be drawn, 0 for all. no_repeat_ngram: no run of so many tokens occurs twice, 0 to allow it. stop: ids that
    end a text; they are part of it.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    no_repeat_ngram: int = 0
    stop: tuple[int, ...] = ()

    def __post_init__(self):
        require(self.max_new_tokens >= 1, f"max_new_tokens is {self.max_new_tokens}, but must be at least 1.")
        for name in ("temperature", "top_k", "no_repeat_ngram"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, but must not be negative.")


class Page(struct.PyTreeNode):
    """A text being written: ids (B, C) and keep (B, C), 1 = real token, of which `length` () slots are filled; the
    cache of what was read; logits (B, V) float32 of the next token. Positions count real tokens, padding does not.
    """

    ids: Array
    keep: Array
    length: Array
    cache: Any
    logits: Array


def begin(model: Gemma3, params: Any, ids: Array, mask: Array, room: int) -> Page:
    """Read the prompt, ids and mask (B, S), padded on the left; `room` more tokens can be written."""
    batch, tokens = ids.shape
    pad = lambda x: jnp.pad(x, ((0, 0), (0, room)))
    cache = model.empty_cache(batch, tokens + room)
    return _read(model, params, Page(pad(ids), pad(mask != 0), jnp.int32(0), cache, jnp.zeros(())), tokens)


def advance(model: Gemma3, params: Any, page: Page, token: Array) -> Page:
    """Write one token (B,) and read it."""
    ids, keep = (
        jax.lax.dynamic_update_slice_in_dim(old, new[:, None].astype(old.dtype), page.length, axis=1)
        for old, new in ((page.ids, token), (page.keep, jnp.ones_like(token)))
    )
    return _read(model, params, page.replace(ids=ids, keep=keep), 1)


def _read(model: Gemma3, params: Any, page: Page, tokens: int) -> Page:
    """Read the `tokens` slots that follow those read."""
    here = lambda x: jax.lax.dynamic_slice_in_dim(x, page.length, tokens, axis=1)
    positions = here(jnp.maximum(jnp.cumsum(page.keep, axis=1) - 1, 0))
    arguments = (here(page.ids), positions, page.keep, page.length, page.cache)
    hidden, cache = model.apply({"params": params}, *arguments, method="extend")
    logits = model.apply({"params": params}, hidden[:, -1:], method="logits")[:, 0]  # type: ignore[index]
    return page.replace(length=page.length + tokens, cache=cache, logits=logits)


def repeated(ids: Array, length: Array | int, size: int, vocabulary: int) -> Array:
    """(B, V) bool: which next tokens would complete a run of `size` tokens that ids (B, C) hold already.

    length: slots that are filled. Padding counts as any token does.
    """
    batch, slots = ids.shape
    starts = jnp.arange(slots)
    shifted = lambda by: jnp.take(ids, jnp.minimum(starts + by, slots - 1), axis=1)  # (B, C)
    last = lambda i: jnp.take(ids, jnp.maximum(length - (size - 1) + i, 0), axis=1)[:, None]  # (B, 1)
    same = jnp.broadcast_to(starts + size - 1 < length, ids.shape)
    for i in range(size - 1):
        same = same & (shifted(i) == last(i))
    banned = jnp.zeros((batch, vocabulary), bool)
    return banned.at[jnp.arange(batch)[:, None], shifted(size - 1)].max(same)


def choose(page: Page, how: Writing, key: Array) -> Array:
    """The next token of each text, (B,) int32."""
    logits = page.logits
    if how.no_repeat_ngram:
        logits = jnp.where(repeated(page.ids, page.length, how.no_repeat_ngram, logits.shape[1]), -jnp.inf, logits)
    if how.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / how.temperature
    if 0 < how.top_k < logits.shape[1]:
        least = jax.lax.top_k(logits, how.top_k)[0][:, -1:]  # (B, 1)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def write(model: Gemma3, params: Any, ids: Array, mask: Array, how: Writing, key: Array) -> tuple[Array, Array]:
    """Continue prompts: ids and mask (B, S), padded on the left -> new ids (B, max_new_tokens) and their count (B,).

    What lies beyond the count means nothing. Draws follow from `key` and the number of the token.
    """
    stop = jnp.asarray(how.stop, jnp.int32)
    tokens = ids.shape[1]

    def going(state: tuple[Page, Array]) -> Array:
        page, count = state
        return jnp.any(count < 0) & (page.length < tokens + how.max_new_tokens)

    def step(state: tuple[Page, Array]) -> tuple[Page, Array]:
        page, count = state  # count: -1 while a text goes on
        written = page.length - tokens
        token = choose(page, how, jax.random.fold_in(key, written))
        ended = jnp.isin(token, stop) & (count < 0)
        return advance(model, params, page, token), jnp.where(ended, written + 1, count)

    start = begin(model, params, ids, mask, how.max_new_tokens), jnp.full((ids.shape[0],), -1, jnp.int32)
    page, count = jax.lax.while_loop(going, step, start)
    return page.ids[:, tokens:], jnp.where(count < 0, how.max_new_tokens, count)


ASCII = str.maketrans("\u2018\u2019\u201c\u201d\u2014\u2013\u00a0\u2032\u2212", "''\"\"-- '-")


def clean(text: str) -> str:
    """An answer as the encoder is to read it: plain quotes, dashes and spaces, and nothing before the first letter."""
    text = text.translate(ASCII)
    first = next((i for i, character in enumerate(text) if character.isalpha()), 0)
    return text[first:]
