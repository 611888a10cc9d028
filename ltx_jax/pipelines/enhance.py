"""Prompts written out by a language model before they are used (spec gemma.md section 6)."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ltx_jax import codec
from ltx_jax.bundle import Bundle, Placed
from ltx_jax.errors import require
from ltx_jax.files import read_text
from ltx_jax.models.text.config import Gemma3Config, Gemma4Config
from ltx_jax.models.text.generation import Writing, clean
from ltx_jax.rng import named_key

INSTRUCTIONS = Path(__file__).parents[1] / "assets" / "enhancement"
PAD = 64  # prompts are padded to a multiple of so many tokens: equal programs serve texts of about the same length


@dataclasses.dataclass(frozen=True)
class Chat:
    """How a family of chat models is spoken to. template: with {system} and {user}. end: token that ends an answer,
    beside <eos>. instructions: file in INSTRUCTIONS that says what is wanted.
    """

    template: str
    end: str
    instructions: str
    how: Writing


# Gemma 3's template begins with <bos>, which its tokenizer puts in front as well: the model has always seen two.
CHATS: dict[type, Chat] = {
    Gemma3Config: Chat(
        "<bos><start_of_turn>user\n{system}\n\n{user}<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
        "gemma3.txt",
        Writing(max_new_tokens=512, temperature=0.7, top_k=50),
    ),
    Gemma4Config: Chat(
        "<bos><|turn>system\n{system}<turn|>\n<|turn>user\n{user}<turn|>\n<|turn>model\n",
        "<turn|>",
        "gemma4.txt",
        Writing(max_new_tokens=600, no_repeat_ngram=5),
    ),
}


class Enhancer:
    """Writes prompts out with the text model of a bundle, which is placed on the devices when it is first used."""

    def __init__(self, bundle: Bundle, placed: Placed):
        """Raises UserError for a model that does not chat."""
        tokenizer, self._chat, self._placed = bundle.tokenizer, CHATS[type(bundle.release.text)], placed
        stop = [None if tokenizer is None else tokenizer.id_of(token) for token in ("<eos>", self._chat.end)]
        require(
            None not in stop,
            f"The text model of {bundle.release.name} is no chat model (its tokenizer has no '{self._chat.end}'): give "
            "the folder of one with --prompt_enhancer, or leave out --enhance_prompt.",
        )
        assert tokenizer is not None
        self._tokenizer, self._how = tokenizer, dataclasses.replace(self._chat.how, stop=tuple(stop))

    def __call__(self, prompt: str, seed: int, instructions: str | None = None) -> str:
        """The prompt written out; equal seeds give equal texts. instructions: a text file in the place of ours.

        Raises UserError for an answer without words.
        """
        system = read_text(INSTRUCTIONS / self._chat.instructions if instructions is None else instructions)
        text = self._chat.template.format(system=system.strip(), user=f"user prompt: {prompt}".strip())
        tokens = self._tokenizer.whole(text)
        length = -(-len(tokens) // PAD) * PAD
        ids = np.full((1, length), self._tokenizer.pad_id, np.int32)
        ids[0, length - len(tokens) :] = tokens
        mask = (np.arange(length) >= length - len(tokens)).astype(np.int32)[None]
        program = self._placed.load(codec.make_write_text_program, ("text",), length, self._how)
        key: Any = jax.random.key_data(named_key(seed, "enhancement"))
        written, count = program(ids, mask, np.asarray(key))
        answer = clean(self._tokenizer.text_of(np.asarray(written)[0, : int(np.asarray(count)[0])].tolist())).strip()
        require(bool(answer), f"The text model answered nothing to '{prompt}'; leave out --enhance_prompt.")
        return answer
