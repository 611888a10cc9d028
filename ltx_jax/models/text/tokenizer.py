"""Prompts to token ids: a wrapper around a `tokenizer.json`, and a small tokenizer trained from scratch."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ltx_jax.errors import UserError, require


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Spelling of the special tokens; padding falls back to `eos` where the vocabulary has no `pad`."""

    bos: str = "<bos>"
    eos: str = "<eos>"
    pad: str | None = "<pad>"


class Tokenizer:
    """Every text becomes exactly `max_length` ids, left padded, with a leading BOS (spec gemma.md section 2)."""

    def __init__(
        self, source: str | os.PathLike[str] | bytes, max_length: int, special: SpecialTokens = SpecialTokens()
    ):
        """source: path of a tokenizer.json, or its content as bytes. Raises UserError when it is no such file."""
        require(max_length > 0, f"The text length must be positive, not {max_length}.")
        where = "the given tokenizer" if isinstance(source, bytes) else f"'{source}'"
        try:
            self._json = source.decode() if isinstance(source, bytes) else Path(source).read_text(encoding="utf-8")
        except OSError:
            raise UserError(f"There is no readable tokenizer file {where}.") from None
        except UnicodeDecodeError:
            raise UserError(f"{where} is no tokenizer.json: it is not UTF-8 text.") from None
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(self._json)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{where} is no tokenizer.json: {error}.") from None
        self.max_length = max_length
        self.bos_id = self._id(special.bos, where)
        pad = special.pad if special.pad and self._tokenizer.token_to_id(special.pad) is not None else special.eos
        self.pad_id = self._id(pad, where)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)  # cuts at the right, counting what the assets add

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._tokenizer.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Texts -> ids and mask (1 = real token), int32 (n, max_length) each."""
        require(not isinstance(texts, str), "Give a list of texts to the tokenizer, not a single text.")
        ids = np.full((len(texts), self.max_length), self.pad_id, np.int32)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(self._encode(texts)):
            # Some assets prepend BOS themselves; otherwise it is put in front and the last token falls off.
            if tokens[:1] != [self.bos_id]:
                tokens = [self.bos_id, *tokens][: self.max_length]
            ids[row, self.max_length - len(tokens) :] = tokens
            mask[row, self.max_length - len(tokens) :] = 1
        return ids, mask

    def whole(self, text: str) -> list[int]:
        """Ids of a text as it stands: not stripped, cut or padded, with what the assets add."""
        free = tokenizers.Tokenizer.from_str(self._json)
        free.no_truncation()
        free.no_padding()
        return free.encode(text).ids

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def id_of(self, token: str) -> int | None:
        """The id of a token as it is spelled, or None."""
        return self._tokenizer.token_to_id(token)

    def to_json(self) -> str:
        """Content of the tokenizer.json, as it was given."""
        return self._json

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            require(isinstance(text, str), f"A text to encode must be a string, not {text!r}.")
            # Lone surrogates are the one thing a Python string may hold and UTF-8 may not.
            valid = not any("\ud800" <= c <= "\udfff" for c in text)
            require(valid, f"The text {text!r} holds characters that are no valid Unicode; remove them.")
        return [encoding.ids for encoding in self._tokenizer.encode_batch([text.strip() for text in texts])]

    def _id(self, token: str, where: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise UserError(f"The tokenizer {where} has no token '{token}', which is needed.")
        return found


def train_toy_tokenizer(texts: Iterable[str], vocab_size: int = 512, max_length: int = 64) -> str:
    """A byte-level BPE tokenizer.json of `texts`: their common words become single tokens, and any text encodes.

    Ids 0..3 are <pad>, <eos>, <bos>, <unk>, then the 256 bytes and the merges. No post-processor: `Tokenizer` puts
    BOS in front. Words read the same at the start of a text and inside it. Raises UserError below 260 entries.
    """
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    least = len(special) + 256
    require(vocab_size >= least, f"A byte-level vocabulary needs at least {least} entries, not {vocab_size}.")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((text.strip() for text in texts), trainer)
    tokenizer.enable_truncation(max_length)
    return tokenizer.to_str()
