"""Records and shards: exact round trips, whole or absent, read by Grain and by others."""

import grain.python as grain
import ml_dtypes
import numpy as np
import pytest
import safetensors

from ltx_jax.data.encoded.records import Journal, pack, unpack, write_shard
from ltx_jax.errors import UserError

ARRAYS = {
    "video": np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "audio": np.float32([[0.5, -1]]),
}


def test_a_record_keeps_arrays_and_strings():
    record = pack(ARRAYS, {"caption": "a naïve circle\n"})
    arrays, metadata = unpack(record)
    assert metadata == {"caption": "a naïve circle\n"} and record == pack(ARRAYS, metadata)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_a_record_is_a_safetensors_file():
    entries = dict(safetensors.deserialize(pack(ARRAYS, {"caption": ""})))
    assert entries["video"]["dtype"] == "BF16" and entries["audio"]["shape"] == [1, 2]


@pytest.mark.parametrize("record", [b"", b"12345678", pack(ARRAYS, {})[:-3], b"\x05" + bytes(7) + b"[1,2]"])
def test_damaged_records_are_said(record):
    with pytest.raises(UserError, match="damaged"):
        unpack(record)


def test_equal_records_give_equal_shards_that_grain_reads(tmp_path):
    records = [pack({"x": np.full((3,), i)}, {}) for i in range(5)]
    lines = [write_shard(tmp_path / name, records) for name in ("a", "b")]
    assert lines[0] == lines[1] and lines[0]["records"] == 5
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    source = grain.ArrayRecordDataSource([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [source[i] for i in (0, 4, 7)] == [records[0], records[4], records[2]]


def test_a_shard_that_fails_leaves_nothing_under_its_name(tmp_path):
    def records():
        yield b"one"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "a", records())
    assert not (tmp_path / "a").exists()


def test_a_journal_forgets_the_line_that_was_cut_off(tmp_path):
    path = tmp_path / "journal"
    Journal(path).add({"n": 1})
    path.write_bytes(path.read_bytes() + b'{"n": 2')
    journal = Journal(path)
    journal.add({"n": 3})
    assert Journal(path).lines == [{"n": 1}, {"n": 3}]
