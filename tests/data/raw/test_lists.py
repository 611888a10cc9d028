"""Lists of videos as spreadsheets and people write them: the whole caption, or one sentence that names the row."""

import json

import pytest

from ltx_jax.data.raw.index import listed_videos, present_videos
from ltx_jax.errors import UserError

ONE = [("a.mp4", "a red ball")]


def read(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return [(file.name, caption) for file, caption in listed_videos(path)]


@pytest.mark.parametrize(
    "text, right",
    [
        ("video,caption\na.mp4,a red ball\n", ONE),
        ("\ufeffcaption,video\na red ball,a.mp4\n", ONE),
        ("\ufeffvideo,caption\na.mp4,a red ball\n", ONE),
        ("video, caption\na.mp4, a red ball\n", ONE),
        ('video, caption\na.mp4, "a red ball"\n', ONE),
        ("Video ,Caption\r\na.mp4,a red ball\r\n", ONE),
        ("video;caption\na.mp4;a red, round ball\n", [("a.mp4", "a red, round ball")]),
        ("id\tvideo\tcaption\n1\ta.mp4\ta red ball\n", ONE),
        ("sep=;\nvideo;caption\na.mp4;a red ball\n", ONE),
        ('"video","caption"\n"a.mp4","a ""red"" ball"\n', [("a.mp4", 'a "red" ball')]),
        ('video,caption\na.mp4,"a red ball\r\nbounces"\r\n', [("a.mp4", "a red ball\nbounces")]),
        ("video,caption\na.mp4,one\u2028two\x85three\n", [("a.mp4", "one\u2028two\x85three")]),
        ("video,caption\r\ra.mp4,a red ball\r,\r", ONE),
        ("\nmedia_path,caption\na.mp4,\n", [("a.mp4", "")]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
def test_tables_of_every_dialect(tmp_path, text, right, encoding):
    assert read(tmp_path, "list.CSV", text.encode(encoding)) == right


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("video,caption\na.mp4,a red ball, bouncing, on blue\n", r"Row 1 .* has 4 columns where the header has 2"),
        ("caption,video\na red ball, bouncing,a.mp4\n", r"Row 1 .* has 3 columns"),
        ("video,caption\na.mp4,one\n\nb.mp4,a red ball\nbounces\n", r"Row 3 .* has 1 columns"),
        ("video,caption\na.mp4,'a red, ball'\n", r"Row 1 .* has 3 columns"),
        ('video,caption\na.mp4,"a red" ball\n', r"Row 1 .* cannot be read"),
        ('video,caption\na.mp4,one\nb.mp4,"a red ball\nc.mp4,two\n', r"Row 2 .* cannot be read"),
        ('video,caption\na.mp4,"a red ball\nb.mp4,two"\n', r"Row 1 .* a quote in it is not closed"),
        ('caption,video\n"a red ball,a.mp4\ntwo",b.mp4\n', r"Row 1 .* a quote in it is not closed"),
        ("video,caption,caption\na.mp4,one,two\n", "'caption'.* twice"),
        ("a.mp4,a red ball\n", "first line .* must name the columns"),
        ("video,caption\n,a red ball\n", "Row 1 .* names no video"),
    ],
)
def test_a_row_that_would_be_cut_or_glued_is_refused(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, "list.csv", text)


@pytest.mark.parametrize("ending", ["jsonl", "json", "NDJSON"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_objects_a_line_or_in_a_list(tmp_path, ending, encoding):
    rows = [{"video": "a.mp4", "caption": "one\u2028two\x85three"}, {"Media_Path": "b.mp4", "caption": ["a red ball"]}]
    right = [("a.mp4", "one\u2028two\x85three"), ("b.mp4", "a red ball")]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for text in (lines, json.dumps(rows, indent=1)):
        assert read(tmp_path, f"list.{ending}", text.encode(encoding)) == right


@pytest.mark.parametrize(
    "row, sentence",
    [
        ({"video": "b.mp4", "caption": ["one", "two"]}, "Row 2 .* has 2 captions"),
        ({"video": "b.mp4", "caption": {"en": "one"}}, "Row 2 .* a caption that is no text"),
        ({"video": "b.mp4", "caption": float("nan")}, "Row 2 .* a caption that is no text"),
        ({"video": "b.mp4", "caption": "\ud83d"}, "Row 2 .* half a character"),
        ({"video": 1}, "Row 2 .* names no video"),
        (["b.mp4", "one"], "Row 2 .* is no object"),
    ],
)
def test_an_object_that_is_no_caption_is_refused(tmp_path, row, sentence):
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, "list.jsonl", f'{{"video": "a.mp4"}}\n{json.dumps(row)}\n')


def test_lines_that_are_no_json_and_values_given_twice_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"Row 2 of .* is not JSON"):
        read(tmp_path, "list.jsonl", '{"video": "a.mp4"}\n\n{"video": \n')
    with pytest.raises(UserError, match=r"Row 1 of .* gives a value twice"):
        read(tmp_path, "list.jsonl", '{"video": "a.mp4", "caption": "one", "caption": "two"}\n')


def test_missing_files_are_named_with_their_row(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "list.csv").write_text("video,caption\na.mp4,one\nclips/b.mp4,two\n")
    present, missing = present_videos(tmp_path / "list.csv")
    assert present == [(tmp_path / "a.mp4", "one")]
    assert [file for file, _ in missing] == [str(tmp_path / "clips/b.mp4")]
    assert "Row 2 of" in missing[0][1] and "clips/b.mp4', which is not there." in capsys.readouterr().err


def test_captions_beside_videos_in_other_encodings(tmp_path):
    texts = {"a": "\ufeffa red ball".encode(), "b": "Größe".encode("latin-1"), "c": "été".encode("utf-16")}
    for name, text in texts.items():
        (tmp_path / f"{name}.mp4").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_bytes(text)
    assert [caption for _, caption in listed_videos(tmp_path)] == ["a red ball", "Größe", "été"]
    (tmp_path / "c.txt").write_bytes("красный шар".encode("cp1251"))
    with pytest.raises(UserError, match=r"c\.txt' is not known"):
        list(listed_videos(tmp_path))
