"""The tokenizer wrapper (spec gemma.md section 2) and the small tokenizer that is trained from scratch."""

import json

import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.text.tokenizer import SpecialTokens, Tokenizer, train_toy_tokenizer

TEXTS = ["a red square moves to the left", "a blue circle moves to the right", "a green square bounces"] * 20
PAD, EOS, BOS, UNK = 0, 1, 2, 3


@pytest.fixture(scope="module")
def source() -> bytes:
    return train_toy_tokenizer(TEXTS).encode()


def test_empty_prompt_is_a_single_bos_at_the_end(source):
    ids, mask = Tokenizer(source, 8)(["", "  \n "])
    np.testing.assert_array_equal(ids, [[PAD] * 7 + [BOS]] * 2)
    np.testing.assert_array_equal(mask, [[0] * 7 + [1]] * 2)
    assert ids.dtype == mask.dtype == np.int32


def test_left_padding_and_mask_agree(source):
    ids, mask = Tokenizer(source, 16)(TEXTS[:3])
    for row, row_mask in zip(ids, mask, strict=True):
        n = int(row_mask.sum())
        assert (row_mask == np.r_[np.zeros(16 - n), np.ones(n)]).all()
        assert (row[: 16 - n] == PAD).all() and row[16 - n] == BOS


def test_bos_in_front_pushes_the_last_token_out(source):
    long = " ".join(TEXTS[:3])
    whole, _ = Tokenizer(source, 64)([long])
    cut, mask = Tokenizer(source, 5)([long])
    tokens = whole[0][whole[0] != PAD]
    np.testing.assert_array_equal(cut[0], tokens[:5])
    assert mask.all()


def test_bos_in_the_text_is_not_doubled(source):
    np.testing.assert_array_equal(Tokenizer(source, 8)(["<bos>a red"])[0], Tokenizer(source, 8)(["a red"])[0])


def test_pad_falls_back_to_eos(source):
    ids, _ = Tokenizer(source, 4, SpecialTokens(pad=None))([""])
    np.testing.assert_array_equal(ids, [[EOS, EOS, EOS, BOS]])


def test_toy_tokenizer_knows_common_words_and_every_byte(source):
    tokenizer = Tokenizer(source, 64)
    assert tokenizer.vocab_size <= 512
    assert [t["content"] for t in json.loads(source)["added_tokens"]] == ["<pad>", "<eos>", "<bos>", "<unk>"]
    _, mask = tokenizer(["red square moves", "moves"])
    assert mask.sum(axis=1).tolist() == [4, 2]  # BOS and one token per word, at the start as inside
    ids, _ = tokenizer(["Übergröße 東京 🎬\x00"])
    assert UNK not in ids and (ids < tokenizer.vocab_size).all()


def test_training_is_repeatable():
    assert train_toy_tokenizer(TEXTS) == train_toy_tokenizer(iter(TEXTS))


def test_json_round_trip(source):
    tokenizer = Tokenizer(source, 16)
    again = Tokenizer(tokenizer.to_json().encode(), 16)
    np.testing.assert_array_equal(again(TEXTS[:3])[0], tokenizer(TEXTS[:3])[0])


def test_bad_inputs_give_sentences(source, tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer(b"{}", 8)
    with pytest.raises(UserError, match="no readable tokenizer"):
        Tokenizer(tmp_path / "absent.json", 8)
    with pytest.raises(UserError, match="no token '<start>'"):
        Tokenizer(source, 8, SpecialTokens(bos="<start>"))
    with pytest.raises(UserError, match="list of texts"):
        Tokenizer(source, 8)("one text")
    with pytest.raises(UserError, match="Unicode"):
        Tokenizer(source, 8)(["\ud800"])
    with pytest.raises(UserError, match="at least 260"):
        train_toy_tokenizer(TEXTS, vocab_size=100)
