"""The store of encoded clips: written once, goes on where it stopped, and is replaced when its source changes."""

import json
import pickle

import numpy as np
import pytest

from ltx_jax.data.config import DataConfig
from ltx_jax.data.encoded.latents import LatentStore, encode_clips
from ltx_jax.data.raw.source import open_source
from ltx_jax.errors import UserError

COUNT = 7


class Encode:
    """Means of the pixels and the first samples; counts its calls and may fail at one of them."""

    def __init__(self, fail=None):
        self.calls, self.fail = 0, fail

    def __call__(self, video, audio):
        assert len(video) == len(audio) == 3  # always a full batch
        self.calls += 1
        if self.calls == self.fail:
            raise KeyboardInterrupt
        return video.mean((2, 3)).astype(np.float32), audio[:, :, :5]


def make(folder, encode, count=COUNT, fingerprint="a"):
    source = open_source(DataConfig(size=4, frames=3, height=16, width=16, sample_rate=4000))
    return encode_clips(source, encode, count, folder, fingerprint, batch=3, progress=False)


def content(store):
    return [(i["video"].tobytes(), i["audio"].tobytes(), i["has_audio"], i["caption"]) for i in items(store)]


def items(store):
    return [store.item(n, 0) for n in range(len(store))]


def test_clips_are_stored_by_number_and_beyond_the_source_as_further_draws(tmp_path):
    store = make(tmp_path / "x", encode := Encode())
    assert len(store) == COUNT and encode.calls == 3 and store.fingerprint == "a"
    source = open_source(DataConfig(size=4, frames=3, height=16, width=16, sample_rate=4000))
    for number in (0, 3, 6):
        clip = source.item(number % 4, number // 4)
        np.testing.assert_allclose(store.item(number, 0)["video"], clip["video"].mean((1, 2)), rtol=1e-6)
        np.testing.assert_array_equal(store.item(number, 0)["audio"], clip["audio"][:, :5])
        assert store.captions()[number] == clip["caption"] == store.item(number, 9)["caption"]


def test_a_whole_store_is_not_made_again_and_another_one_replaces_it(tmp_path):
    first = content(make(tmp_path / "x", Encode()))
    again = Encode()
    assert content(make(tmp_path / "x", again)) == first and again.calls == 0
    other = Encode()
    assert make(tmp_path / "x", other, fingerprint="b").fingerprint == "b" and other.calls == 3


def test_a_stopped_store_is_none_and_is_finished_later(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "x", Encode(fail=2))
    with pytest.raises(UserError, match="no finished latents"):
        LatentStore(tmp_path / "x")
    assert content(make(tmp_path / "x", Encode())) == content(make(tmp_path / "y", Encode()))


def test_encoding_goes_on_at_the_first_clip_that_is_missing(tmp_path):
    whole = make(tmp_path / "y", Encode())
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "x", Encode(fail=2))
    first = whole.captions()[:3]  # as a long run would have noted
    record = {"fingerprint": "a", "captions": first, "has_audio": [True] * 3}
    (tmp_path / "x" / "progress.json").write_text(json.dumps(record))
    encode = Encode()
    assert content(make(tmp_path / "x", encode)) == content(whole) and encode.calls == 2


def test_a_store_travels_to_worker_processes(tmp_path):
    store = make(tmp_path / "x", Encode())
    store.item(0, 0)
    assert content(pickle.loads(pickle.dumps(store))) == content(store)
