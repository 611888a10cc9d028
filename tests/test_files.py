"""Files appear whole or not at all, and text is read in the encoding that it has, or refused."""

import json
import os

import pytest

from ltx_jax import files
from ltx_jax.errors import UserError

TEXT = "it’s a red ball"


def test_a_file_is_whole_or_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("etils.epath.gpath._GPath.write_bytes", full)
    with pytest.raises(UserError, match=r"a\.json' cannot be written \(No space left on device\)"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert os.listdir(path.parent) == ["a.json"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        files.write_text(tmp_path / "file" / "a.txt", "x")


def test_names_of_other_bytes_survive_json_and_are_shown(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    files.write_json(tmp_path / name, {"path": name, "caption": "café"})
    assert files.read_json(tmp_path / name) == {"path": name, "caption": "café"}
    assert "café" in (tmp_path / name).read_bytes().decode()
    assert json.loads(files.to_json(name)) == name
    assert files.shown(name) == r"caf\xe9.mp4"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_text_is_read_in_the_encoding_that_it_has(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(f"{TEXT}\r\nand\ra\u0085\u00e9".replace("\u0085", "").encode(encoding))
    assert files.read_text(path) == f"{TEXT}\nand\na\u00e9"


def test_a_guess_is_said_once_for_a_folder(tmp_path, capsys):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes("Größe".encode("latin-1"))
        assert files.read_text(tmp_path / name) == "Größe"
    assert capsys.readouterr().err.count("read as Windows-1252") == 1


@pytest.mark.parametrize(
    "data",
    ["красный шар".encode("cp1251"), "赤い玉".encode("shift_jis"), "一个红色的球".encode("gbk"),
     "czerwona piłka odbija się".encode("cp1250"), "une scène".encode("cp850"), "x".encode("utf-16") + b"\0",
     b"\x00\x01\x02\x03binary", b"caf\x81"],
)  # fmt: skip
def test_text_of_no_known_encoding_is_refused(data):
    with pytest.raises(UserError, match=r"The encoding of the text in 'a\.txt' is not known; save it as UTF-8"):
        files.decode(data, "a.txt")


def test_a_damaged_file_of_ours_is_a_sentence(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": ')
    with pytest.raises(UserError, match="is damaged"):
        files.read_json(tmp_path / "a.json")
