"""Reading prepared clips: batches follow from the step alone, every clip is seen, damage is said."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fakes import MODEL, RULES, FakeEncoder, write_clips

from ltx_jax.data.encoded.mixture import BucketBatches, Mixture, deal, exact_counts, open_mixture, parse_paths
from ltx_jax.data.encoded.prepared import FeatureBatch, PreparedClips, is_prepared, place_text
from ltx_jax.data.preparation.engines import LocalEngine
from ltx_jax.data.preparation.prepare import prepare
from ltx_jax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    (root / "in").mkdir()
    write_clips(root / "in")
    prepare(str(root / "in"), root / "out", RULES, LocalEngine(FakeEncoder(), 0), MODEL, batch=2, shard_clips=2)
    return root / "out"


def batches(*folders, weights=None, **options):
    sets = [PreparedClips(f) for f in folders]
    return BucketBatches(Mixture(sets, weights or [1.0] * len(sets)), 3, 4, FeatureBatch(64), **options)


def same(a, b):
    assert a.keys() == b.keys() and a["bucket"] == b["bucket"]
    for name in a.keys() - {"bucket"}:
        np.testing.assert_array_equal(a[name], b[name])


def test_a_batch_is_of_one_bucket_with_all_its_arrays(folder):
    batch = batches(folder).at(0)
    assert batch["bucket"] in ("16x16x9@8", "32x16x9@8")
    shapes = {name: array.shape for name, array in batch.items() if name != "bucket"}
    assert shapes == {
        "video": (4, 9, 3), "audio": (4, 2, 8), "has_audio": (4,), "text_mask": (4, 64),
        "video_features": (4, 64, 4), "audio_features": (4, 64, 4),
    }  # fmt: skip


def test_every_epoch_of_a_bucket_shows_every_clip_once(folder):
    mixture = batches(folder)._rows
    for bucket, count in PreparedClips(folder).buckets.items():
        for epoch in range(2):
            items = [mixture.item_at(3, bucket, epoch * count + i) for i in range(count)]
            assert len({item["video"].tobytes() for item in items}) == count


def test_buckets_come_in_proportion_to_their_clips(folder):
    mixture = batches(folder)._rows
    steps = Counter(mixture.bucket_at(3, step)[0].name for step in range(1024))
    assert abs(steps["32x16x9@8"] / 1024 - 2 / 7) < 2 / 1024


def test_hosts_share_one_global_batch(folder):
    for step in (0, 5, 1030):
        whole, halves = batches(folder).at(step), [batches(folder, process_index=i, process_count=2) for i in (0, 1)]
        for name in ("video", "text_mask"):
            np.testing.assert_array_equal(whole[name], np.concatenate([h.at(step)[name] for h in halves]))


def test_workers_and_resumes_change_nothing(folder):
    reader, other = batches(folder, workers=2), batches(folder)
    try:
        for step in range(3):
            same(next(reader), batches(folder).at(step))
        other.set_state(json.loads(json.dumps(reader.get_state())))
        same(next(other), next(reader))
    finally:
        reader.close()
    with pytest.raises(UserError, match="changed"):
        other.set_state({"step": 1, "data": "another"})


def test_sets_are_mixed_by_their_weights(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "second")
    mixture = batches(folder, tmp_path / "second", weights=[3.0, 1.0])._rows
    bucket = mixture.buckets[0]
    chosen = []
    for clips, name in zip(mixture.sets, "ab", strict=True):
        clips.item = lambda b, n, name=name: chosen.append((name, n))
    for position in range(1024):
        mixture.item_at(3, bucket, position)
    counts = Counter(name for name, _ in chosen)
    assert counts["a"] in (767, 768, 769) and counts["a"] + counts["b"] == 1024
    seen = Counter(number for name, number in chosen if name == "b")
    assert max(seen.values()) - min(seen.values()) <= 1  # in epochs of its own


def test_shares_are_dealt_exactly_and_without_history():
    counts = exact_counts([5, 3, 0.001], 1024)
    assert counts.sum() == 1024 and counts.min() == 1 and abs(counts[0] / counts[1] - 5 / 3) < 0.01
    weights, seen = (0.7, 0.3), Counter()
    for position in range(3000):
        which, number = deal(weights, 0, "x", position)
        assert number == seen[which]
        seen[which] += 1
    assert deal(weights, 0, "x", 10**9)[1] > 10**8


def test_text_is_placed_at_the_end():
    item = {"video_features": np.ones((2, 3), np.float32), "audio_features": np.ones((2, 3), np.float32)}
    placed = place_text(item, 4)
    assert placed["text_mask"].tolist() == [0, 0, 1, 1]
    assert placed["video_features"][:, 0].tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match="more than the model's 1"):
        place_text(item, 1)


def test_damage_gets_a_sentence(folder, tmp_path):
    assert is_prepared(folder) and not is_prepared(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shard = sorted(copy.glob("*.arrayrecord"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000])
    with pytest.raises(UserError, match="truncated"):
        PreparedClips(copy)
    shard.write_bytes(whole[:1000] + bytes(len(whole) - 1000))
    clips = PreparedClips(copy)
    with pytest.raises(UserError, match="damaged"):
        [clips.item(bucket, n) for bucket, count in clips.buckets.items() for n in range(count)]
    shard.unlink()
    with pytest.raises(UserError, match="missing"):
        PreparedClips(copy)
    (copy / "index.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        PreparedClips(copy)


def test_folders_are_named_with_weights(folder, tmp_path):
    assert [(str(p.path), p.weight) for p in parse_paths("a:3,b:0.5")] == [("a", 3.0), ("b", 0.5)]
    assert [(str(p.path), p.weight) for p in parse_paths("a,b")] == [("a", None), ("b", None)]
    assert [p.path for p in parse_paths(str(folder))] == [Path(folder)]
    with pytest.raises(UserError, match="weight"):
        parse_paths("a:3,b")
    open_set = lambda path: PreparedClips(path) if is_prepared(path) else None
    assert open_mixture(str(tmp_path), open_set) is None
    assert len(open_mixture(f"{folder}:1,{folder}:2", open_set)) == 14
    with pytest.raises(UserError, match="no prepared clips"):
        open_mixture(f"{folder},{tmp_path}", open_set)


def test_what_cannot_be_mixed_is_refused(folder):
    one, other = PreparedClips(folder), PreparedClips(folder)
    other.model = {"latents": "another"}
    with pytest.raises(UserError, match="different models"):
        Mixture([one, other], [1, 1])
    with pytest.raises(UserError, match="above 0"):
        Mixture([one], [0])
