"""The tokenizer of the toy: its merges are the words of a toy world, any other text is bytes."""

import functools

from ltx_jax.data.raw import toyworld
from ltx_jax.data.raw.toy import world
from ltx_jax.models.text.tokenizer import Tokenizer, train_toy_tokenizer


@functools.cache
def toy_tokenizer(text_length: int, version: str = "first") -> Tokenizer:
    """A byte-level tokenizer of prompts of `text_length` tokens. version: of the world, see `DataConfig`."""
    captions = (world if version == "exact" else toyworld).caption_corpus(1000)
    return Tokenizer(train_toy_tokenizer(captions).encode(), text_length)
