"""Preparation: the same shards however it is done and interrupted; what is wrong gets a sentence."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from fakes import MODEL, RULES, FakeEncoder, write_clips

from ltx_jax.data.encoded.records import unpack
from ltx_jax.data.preparation.clips import ClipRules
from ltx_jax.data.preparation.engines import LocalEngine
from ltx_jax.data.preparation.prepare import prepare, summary
from ltx_jax.errors import UserError


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def run(source, output, encoder=None, workers=0, rules=RULES, model=MODEL, **options):
    options = {"batch": 2, "shard_clips": 2, "progress": False} | options
    return prepare(str(source), Path(output), rules, LocalEngine(encoder or FakeEncoder(), workers), model, **options)


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.arrayrecord"))}


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    return folder, run(clips, folder)


def records(folder):
    import grain.python as grain

    source = grain.ArrayRecordDataSource([str(path) for path in sorted(folder.glob("*.arrayrecord"))])
    return [unpack(source[i]) for i in range(len(source))]


def test_every_clip_is_there_once_in_its_bucket_and_bad_files_are_listed(whole):
    folder, index = whole
    files = [metadata["file"] for _, metadata in records(folder)]
    assert sorted(files) == [f"clip{i}.mp4" for i in range(7)]
    wide = [s for s in index["shards"] if s["name"].startswith("32x16x9@8")]
    assert sum(s["records"] for s in wide) == 2 and index["clips"] == 7
    assert len(index["failed"]) == 2 and "broken.mp4" in index["failed"][0] and "cut off" in index["failed"][1]
    assert "2 skipped:" in summary(index, folder)


def test_workers_change_nothing(clips, whole, tmp_path):
    assert run(clips, tmp_path / "out", workers=2) == whole[1]
    assert shards(tmp_path / "out") == shards(whole[0])


def test_a_finished_folder_is_left_alone_and_a_damaged_shard_is_made_again(clips, whole, tmp_path):
    run(clips, tmp_path / "out")
    again = FakeEncoder()
    assert run(clips, tmp_path / "out", again) == whole[1] and again.calls == 0
    victim = sorted((tmp_path / "out").glob("*.arrayrecord"))[0]
    victim.write_bytes(victim.read_bytes()[:100])
    assert run(clips, tmp_path / "out", again) == whole[1] and again.calls == 1
    assert shards(tmp_path / "out") == shards(whole[0])


def test_killed_at_any_time_and_run_again_gives_the_same(clips, whole, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from pathlib import Path
        from fakes import MODEL, RULES, FakeEncoder
        from ltx_jax.data.preparation.engines import LocalEngine
        from ltx_jax.data.preparation.prepare import prepare
        engine = LocalEngine(FakeEncoder(0.3), 0)
        prepare({str(clips)!r}, Path({str(tmp_path / "out")!r}), RULES, engine, MODEL, batch=2, shard_clips=2)
    """)
    )
    for lines in (("plan.jsonl", 3), ("shards.jsonl", 1), ("shards.jsonl", 3)):
        process = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 60
        while count(tmp_path / "out" / lines[0]) < lines[1] and time.monotonic() < limit and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "out" / "index.json").exists()
    assert run(clips, tmp_path / "out") == whole[1]
    assert shards(tmp_path / "out") == shards(whole[0])


def count(path):
    return path.read_bytes().count(b"\n") if path.is_file() else 0


class Dies(FakeEncoder):
    def __call__(self, clips, items):
        raise AssertionError


def test_a_clip_that_fails_late_is_noted_and_leaves_the_others(clips, whole, tmp_path, monkeypatch):
    from ltx_jax.data.preparation import engines

    real = engines.read_clip
    fail = lambda clip, sample_rate: "'x' cannot be decoded." if clip.name == "clip4.mp4" else real(clip, sample_rate)
    monkeypatch.setattr(engines, "read_clip", fail)
    index = run(clips, tmp_path / "out")
    assert index["clips"] == 6 and "'x' cannot be decoded." in index["failed"]
    monkeypatch.setattr(engines, "read_clip", lambda clip, sample_rate: "it is gone.")
    with pytest.raises(UserError, match="None of the clips"):
        run(clips, tmp_path / "none", Dies())


def test_other_settings_or_videos_are_refused(clips, whole, tmp_path):
    folder = whole[0]
    other = ClipRules(RULES.buckets[:1], 16000)
    changes = {"rules": other, "shard_clips": 4, "model": {}, "settings": {"tile": 512}}
    for name, value in changes.items():
        with pytest.raises(UserError, match="other settings.*" + name.replace("settings", "tile")):
            run(clips, folder, **{name: value})
    run(clips, tmp_path / "exact", settings={"stored": "float32"})
    with pytest.raises(UserError, match=r"other settings.*stored"):
        run(clips, tmp_path / "exact")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    with pytest.raises(UserError, match="something else"):
        run(clips, tmp_path / "full")
    assert json.loads((folder / "index.json").read_text()) == whole[1]


def test_nothing_to_prepare_gets_a_sentence_and_every_time_the_reasons(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="no folder"):
        run(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(UserError, match="no video"):
        run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "x.mp4").write_text("no video")
    for _ in range(2):  # the second time the files are not looked at again
        with pytest.raises(UserError, match="None of the 1 files"):
            run(tmp_path / "in", tmp_path / "out", progress=True)
        assert "x.mp4' is no video that can be read" in capsys.readouterr().err
