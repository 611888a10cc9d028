"""A folder of real files: good ones are read, bad ones are named, windows follow from the draw."""

import json

import numpy as np
import pytest

from ltx_jax.data.config import DataConfig
from ltx_jax.data.raw.source import open_source
from ltx_jax.data.raw.toyworld import render
from ltx_jax.errors import UserError
from ltx_jax.media.video import write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos")
    clip = render(0, 0)
    write_video(path / "a.mp4", clip.video, 8, clip.audio, 16000)
    (path / "a.txt").write_text("a red circle\n")
    write_video(path / "in" / "b.mp4", clip.video[:6], 8)
    write_video(path / "short.mp4", clip.video[:2], 8)
    (path / "broken.mp4").write_text("no video")
    return path


def config(path, **changes):
    return DataConfig(**({"path": str(path), "frames": 8, "height": 32, "width": 48} | changes))


def test_good_files_are_read_and_bad_ones_named(folder, tmp_path, capsys):
    source = open_source(config(folder), tmp_path)
    items = [source.item(i, 0) for i in range(len(source))]
    assert [i["caption"] for i in items] == ["a red circle", ""] and [bool(i["has_audio"]) for i in items] == [
        True,
        False,
    ]
    assert all(i["video"].shape == (8, 32, 48, 3) and i["audio"].shape == (2, 16000) for i in items)
    np.testing.assert_array_equal(items[1]["video"][5], items[1]["video"][7])  # the last frame is held
    said = capsys.readouterr().err
    assert "broken.mp4" in said and "short.mp4" in said and "1 without a caption" in said
    kept = json.loads((tmp_path / "data_index.json").read_text())
    assert len(kept["videos"]) == 2 and len(kept["rejected"]) == 2


def test_the_window_follows_from_the_draw(folder):
    source = open_source(config(folder))
    np.testing.assert_array_equal(source.item(0, 3)["video"], source.item(0, 3)["video"])
    assert any(not np.array_equal(source.item(0, 0)["video"], source.item(0, d)["video"]) for d in (1, 2, 3))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_lists_name_files_beside_them(folder, ending):
    rows = {"csv": "video,caption\nin/b.mp4,a star\n", "jsonl": '{"media_path": "in/b.mp4", "caption": "a star"}\n'}
    (folder / f"list.{ending}").write_text(rows[ending])
    source = open_source(config(folder / f"list.{ending}"))
    assert len(source) == 1 and source.item(0, 0)["caption"] == "a star"


def test_a_file_that_fails_later_stops_or_is_replaced(tmp_path):
    clip = render(0, 0)
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", clip.video, 8)
    stop, replace = (open_source(config(tmp_path, on_error=rule)) for rule in ("stop", "replace"))
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(UserError, match=r"a\.mp4"):
        stop.item(0, 0)
    assert replace.item(0, 0)["video"].shape == (8, 32, 48, 3)


def test_nothing_to_read_gets_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        open_source(config(tmp_path / "absent"))
    with pytest.raises(UserError, match="no video"):
        open_source(config(tmp_path))
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(UserError, match="None of"):
        open_source(config(tmp_path))
