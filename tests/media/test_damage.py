"""Damaged files: what is left is read at its time, and nothing else stops."""

import av
import numpy as np
import pytest
from films import FPS, FRAMES, KINDS, TONE, make, numbers

from ltx_jax.errors import UserError
from ltx_jax.media.film import shown_frames
from ltx_jax.media.video import probe, read_audio

WHOLE = ["mp4", "mov", "mkv", "ts", "mpg", "avi"]


def damaged(path, kind, second, target):
    """A copy in which the data of one packet of a stream are overwritten."""
    with av.open(str(path)) as container:
        stream = container.streams.best(kind)
        start = float((stream.start_time or 0) * stream.time_base)
        packets = [p for p in container.demux(stream) if p.dts is not None and p.pos is not None]
        packet = next(p for p in packets if float(p.dts * p.time_base) - start >= second)
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    begin = place + 40 if path.suffix in (".ts", ".mpg") else place + 8  # the container's own header is spared
    data[begin : begin + min(size, 120)] = b"\xff" * min(size, 120)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("ending", WHOLE)
def test_sound_goes_on_behind_a_damaged_packet(ending, tmp_path):
    kind = KINDS[ending] if "pcm" not in KINDS[ending].get("sound", "") else KINDS[ending] | {"sound": "mp2"}
    kind = kind | ({"sound": "aac"} if ending == "mov" else {})
    path = damaged(make(tmp_path / f"a.{ending}", **kind), "audio", 2.5, tmp_path / f"bad.{ending}")
    wave, heard = read_audio(path, samples=4 * 16000, sample_rate=16000)
    loud = np.flatnonzero(np.abs(wave[0]) > 0.1) / 16000
    assert heard and abs(loud[0] - TONE) < 0.03 and loud[-1] > 3.9 and np.isfinite(wave).all()
    assert np.abs(wave[0, int(2.8 * 16000) : int(3.9 * 16000)]).reshape(-1, 160).max(axis=1).min() > 0.1
    for start in (2.7, 3.3):
        assert read_audio(path, samples=8000, sample_rate=16000, start=start)[1], start


@pytest.mark.parametrize("ending", WHOLE)
def test_pictures_go_on_behind_a_damaged_packet(ending, tmp_path):
    path = damaged(make(tmp_path / f"a.{ending}", **KINDS[ending]), "video", 1.1, tmp_path / f"bad.{ending}")
    assert numbers(path, 0.0, 24, FPS) == list(range(24))
    assert numbers(path, 3.2, 20, FPS) == list(range(80, FRAMES))  # behind later key frames
    whole = [shown.time for shown in shown_frames(path)]
    assert whole == sorted(whole) and len(whole) >= 60


def test_a_file_that_ends_early_is_read_as_far_as_it_goes(tmp_path):
    for ending in ("mkv", "ts", "mpg", "flv"):
        path = make(tmp_path / f"a.{ending}", **KINDS[ending])
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        seconds = probe(path).seconds
        assert 1.0 < seconds < 3.99 and numbers(path, 0.5, 4, 10) == [12, 15, 17, 20], ending


def test_streams_that_a_damaged_header_invents_are_no_reason_to_stop(tmp_path):
    path = make(tmp_path / "a.flv", **KINDS["flv"])
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(0)
    for place in noise.integers(len(data) // 3, len(data), 30):
        data[place : place + 3] = noise.bytes(3)
    path.write_bytes(data)
    assert numbers(path, 0.0, 10, FPS) == list(range(10))
    assert len(list(shown_frames(path))) > 10 and read_audio(path, samples=8000, sample_rate=16000)[1]


def test_nothing_but_damage_gets_a_sentence(tmp_path):
    path = make(tmp_path / "a.mkv", frames=10)
    data = bytearray(path.read_bytes())
    data[600:] = np.random.default_rng(0).bytes(len(data) - 600)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.mkv"):
        probe(path)
