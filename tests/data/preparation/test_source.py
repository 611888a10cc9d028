"""Clips of a source as prepared data: in order, with references and text, gone on with after a stop, made anew."""

import dataclasses

import numpy as np
import pytest

from ltx_jax.data.buckets import Bucket
from ltx_jax.data.encoded.prepared import PreparedClips
from ltx_jax.data.encoded.records import pack
from ltx_jax.data.preparation import source as preparation
from ltx_jax.data.preparation.source import SourceClips, prepare_source
from ltx_jax.errors import UserError

BUCKET, SMALL, MODEL = Bucket(16, 16, 9, 8.0), Bucket(8, 8, 9, 8.0), {"configuration": "0", "latents": "0"}


class Source:
    """Three videos; `broken`: the number of one that cannot be read."""

    def __init__(self, fingerprint="one", broken=None):
        self.fingerprint, self.broken = fingerprint, broken

    def __len__(self):
        return 3

    def item(self, number, draw):
        if number == self.broken and draw:
            raise UserError("It is gone.")
        return {"value": 10 * draw + number, "has_audio": number != 1, "caption": f"clip {number}"}


class Encoder:
    """A record of every clip's value, and of its reference's; counts the clips."""

    with_text = True

    def __init__(self):
        self.clips = 0

    def __call__(self, clips, items, references=None, stills=None):
        self.clips += len(items)
        if stills is not None:
            assert all(len(set(frames)) == 2 and 0 <= min(frames) <= max(frames) < BUCKET.frames for frames in stills)
        array = lambda item: np.full((2, 1), item["value"], np.float32)
        beside = [{"video_reference": array(r)} for r in references] if references else [{}] * len(items)
        rows = [{"video": array(item), "audio": array(item)} | more for item, more in zip(items, beside, strict=True)]
        heads = [
            {"caption": c.caption, "has_audio": str(int(i["has_audio"]))} for c, i in zip(clips, items, strict=True)
        ]
        return [pack(arrays, head) for arrays, head in zip(rows, heads, strict=True)]

    def empty(self):
        return pack({"video_features": np.ones((1, 4), np.float32)}, {"caption": ""})


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(preparation, "BATCH", 2)
    monkeypatch.setattr(preparation, "SHARD", 4)


def run(folder, source=None, references=None, count=7, model=MODEL, encoder=None, text="words", stills=0, small=None):
    encoder = encoder or Encoder()
    clips = SourceClips(source or Source(), count, BUCKET, 16000, references, stills)
    sizes = [clips] if small is None else [clips, dataclasses.replace(clips, source=small, bucket=SMALL)]
    prepare_source(sizes, folder, lambda: encoder, model, text, progress=False)
    return encoder.clips


def values(folder, name="video", bucket=BUCKET):
    clips = PreparedClips(folder)
    return [int(clips.item(bucket, n)[name][0, 0]) for n in range(clips.buckets[bucket])]


def test_clips_keep_their_numbers_and_what_belongs_to_them(tmp_path):
    assert run(tmp_path / "out", references=Source("other")) == 7
    assert values(tmp_path / "out") == values(tmp_path / "out", "video_reference") == [0, 1, 2, 10, 11, 12, 20]
    item = PreparedClips(tmp_path / "out").item(BUCKET, 4)
    assert item["caption"] == "clip 1" and not item["has_audio"]
    assert PreparedClips(tmp_path / "out").empty()["video_features"].shape == (1, 4)


def test_every_size_has_all_clips_of_its_own_source(tmp_path):
    with pytest.raises(UserError, match="gone"):
        run(tmp_path, small=Source("small", broken=2))  # they come first; clip 5, of the second shard
    assert run(tmp_path, small=Source("small")) == 10  # the shard of four that was whole is kept
    assert values(tmp_path) == values(tmp_path, bucket=SMALL) == [0, 1, 2, 10, 11, 12, 20]
    assert run(tmp_path, small=Source("small")) == 0
    assert run(tmp_path, small=Source("another")) == 14


def test_a_stopped_preparation_goes_on_and_a_finished_one_is_left_alone(tmp_path):
    with pytest.raises(UserError, match="gone"):
        run(tmp_path / "out", Source(broken=2))  # clip 5, of the second shard
    assert run(tmp_path / "out") == 3
    assert run(tmp_path / "out") == 0
    run(tmp_path / "whole")
    for path in tmp_path.glob("whole/*"):
        if path.suffix in (".arrayrecord", ".json", ".record"):
            assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


@pytest.mark.parametrize(
    "changes", [{"source": Source("two")}, {"count": 6}, {"model": {**MODEL, "latents": "1"}}, {"text": "others"},
                {"references": Source()}, {"stills": 2}], ids=lambda c: next(iter(c)),
)  # fmt: skip
def test_other_clips_or_encoders_are_encoded_anew(tmp_path, changes):
    run(tmp_path)
    assert run(tmp_path, **changes) == changes.get("count", 7)


def test_a_damaged_shard_is_made_again(tmp_path):
    run(tmp_path)
    shard = sorted(tmp_path.glob("*.arrayrecord"))[0]
    shard.write_bytes(b"")
    assert run(tmp_path) == 4 and values(tmp_path)[:4] == [0, 1, 2, 10]
