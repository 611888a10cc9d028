"""A file of prompts is read in the encoding that it has, one prompt a line."""

import pytest

from ltx_jax.errors import UserError
from ltx_jax.pipelines.request import read_prompts


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_prompts_in_every_encoding(tmp_path, encoding):
    (tmp_path / "prompts.txt").write_bytes("a café\r\n\r\n  two words\n".encode(encoding))
    assert read_prompts(str(tmp_path / "prompts.txt")) == ("a café", "two words")


def test_a_line_separator_within_a_prompt_does_not_end_it(tmp_path):
    (tmp_path / "prompts.txt").write_text("one\u2028two\n", encoding="utf-8")
    assert read_prompts(str(tmp_path / "prompts.txt")) == ("one\u2028two",)


def test_an_unknown_encoding_is_refused(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("красный шар".encode("koi8-r"))
    with pytest.raises(UserError, match="save it as UTF-8"):
        read_prompts(str(tmp_path / "prompts.txt"))
