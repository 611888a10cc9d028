"""Folders of videos as people have them: links, hidden files, trash, names of other bytes."""

import json
import os
import subprocess
import sys

import pytest

from ltx_jax.data.config import DataConfig
from ltx_jax.data.raw.folders import videos_below
from ltx_jax.data.raw.index import listed_videos
from ltx_jax.data.raw.source import open_source
from ltx_jax.data.raw.toyworld import render
from ltx_jax.media.video import write_video


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(root):
    return [os.path.relpath(file, root) for file in videos_below(root)]


def test_hidden_files_and_trash_are_left_out_and_counted(tmp_path, capsys):
    touch(
        *(tmp_path / name for name in ("a.mp4", "B.MOV", "in/c.MTS", "no.jpg", ".dtrash/d.mp4", "._a.mp4")),
        *(tmp_path / name / "x.mp4" for name in ("$RECYCLE.BIN", "@eaDir", "__MACOSX", "in/.git")),
    )
    assert names(tmp_path) == ["B.MOV", "a.mp4", "in/c.MTS"]
    assert "left out 6 hidden or system files and folders" in capsys.readouterr().err
    assert len(videos_below(tmp_path / ".dtrash")) == 1  # a folder that is named itself is what is meant


def test_links_are_followed_and_end(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    touch(inside / "z" / "a.mp4", outside / "b.mp4", outside / "c.mp4", tmp_path / "d.mp4")
    (outside / "c.txt").write_text("beside what is linked")
    (inside / "back").symlink_to(inside)
    (inside / "same").symlink_to("z")  # before z in order, yet z keeps its own name
    (inside / "more").symlink_to("../out")
    (outside / "up").symlink_to(tmp_path)
    (inside / "linked.mp4").symlink_to("../out/c.mp4")
    (inside / "self.mp4").symlink_to("self.mp4")
    assert names(inside) == ["linked.mp4", "more/b.mp4", "more/c.mp4", "more/up/d.mp4", "z/a.mp4"]
    assert dict(listed_videos(inside))[inside / "linked.mp4"] == "beside what is linked"


def test_links_that_lead_nowhere_are_named(tmp_path, capsys):
    touch(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to("/gone/b.mp4")
    (tmp_path / "folder").symlink_to("gone")
    assert names(tmp_path) == ["a.mp4"]
    said = capsys.readouterr().err
    assert "b.mp4': it is a link to '/gone/b.mp4', which is not there" in said and "folder': it is a link to" in said


@pytest.fixture(scope="module")
def other_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    clip = render(0, 0)
    write_video(folder / "a.mp4", clip.video, 8, clip.audio, 16000)
    os.rename(folder / "a.mp4", os.fsencode(folder) + b"/caf\xe9.mp4")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("a red circle")
    (folder / os.fsdecode(b"bad\xff.mp4")).write_text("no video")
    return folder


def test_names_of_other_bytes_are_indexed(other_bytes, tmp_path, capsys):
    source = open_source(DataConfig(path=str(other_bytes), frames=8, height=32, width=32), tmp_path)
    assert len(source) == 1 and source.item(0, 0)["caption"] == "a red circle"
    kept = json.loads((tmp_path / "data_index.json").read_bytes())
    assert os.fsencode(kept["videos"][0]["path"]).endswith(b"caf\xe9.mp4")
    assert r"skipped " in (said := capsys.readouterr().err) and r"bad\xff.mp4" in said


def test_names_of_other_bytes_are_prepared(other_bytes, tmp_path):
    command = [
        sys.executable, "-m", "ltx_jax.tools.prepare", f"--input={other_bytes}", f"--output={tmp_path / 'out'}",
        "--resolutions=32x32x9", "--workers=0",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"})
    assert done.returncode == 0, done.stderr
    assert b"bad" in done.stdout  # the list of what was skipped, at the end
    assert json.loads((tmp_path / "out" / "index.json").read_bytes())["clips"] > 0
