"""Which streams are taken, and names as people give them: covers, sound without a decoder, colons, other bytes."""

import os

import av
import numpy as np
import pytest
from films import FPS, FRAMES, HEIGHT, WIDTH, bars, make, numbers

from ltx_jax.errors import UserError
from ltx_jax.media.video import probe, read_audio, read_metadata, read_video, write_video


def with_cover(source, target, first, flagged=True):
    """The film with a picture beside it, as tagging programs write it."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        add = lambda: write.add_stream("mjpeg", rate=1)
        cover = add() if first else None
        streams = {stream.index: write.add_stream_from_template(stream) for stream in read.streams}
        cover = cover or add()
        cover.width = cover.height = 64
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic if flagged else av.stream.Disposition.default
        picture = np.full((64, 64, 3), (200, 30, 200), np.uint8)
        frame = av.VideoFrame.from_ndarray(picture).reformat(format="yuvj420p")
        frame.pts = 0
        for packet in [*cover.encode(frame), *cover.encode()]:
            write.mux(packet)
        for packet in read.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                write.mux(packet)
    return target


COVERS = [("a.mp4", False, True), ("a.mkv", True, True), ("b.mkv", False, True), ("c.mkv", True, False)]
COVERS += [("a.mov", True, False)]


@pytest.mark.parametrize("name, first, flagged", COVERS)
def test_the_film_is_taken_not_its_cover(name, first, flagged, tmp_path):
    path = with_cover(make(tmp_path / "plain.mp4"), tmp_path / name, first, flagged)
    info = probe(path)
    assert (info.height, info.width, info.fps) == (HEIGHT, WIDTH, FPS) and info.seconds > 3.9
    assert numbers(path, 0.48, 3, 5) == [12, 17, 22]


def test_a_cover_alone_is_no_film(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as out:
        cover, song = out.add_stream("mjpeg", rate=1), out.add_stream("aac", rate=16000, layout="stereo")
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(bars(1)).reformat(format="yuvj420p")
        frame.pts = 0
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        silence.sample_rate, silence.pts = 16000, 0
        for packet in [*cover.encode(frame), *cover.encode(), *song.encode(silence), *song.encode()]:
            out.mux(packet)
    with pytest.raises(UserError, match=r"song\.mp4.*no film"):
        probe(tmp_path / "song.mp4")


def test_sound_that_nothing_decodes_is_no_sound(tmp_path):
    path = make(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_ABC"))
    assert not probe(path).has_audio
    wave, heard = read_audio(path, samples=100, sample_rate=16000)
    assert not heard and not wave.any() and numbers(path, 0.48, 2, 5) == [12, 17]


@pytest.mark.parametrize(
    "name", ["take:1.mp4", "concat:a|b.mp4", "http:x.mp4", "file:x.mp4", "100%d.mkv", b"caf\xe9.mp4"]
)
def test_no_name_is_taken_for_something_else(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = np.stack([bars(number) for number in range(8)])
    path = os.fsdecode(name)
    write_video(path, video, FPS, np.zeros((2, 4000), np.float32), metadata={"prompt": "x"})
    assert os.listdir() == [path] and read_metadata(path)["prompt"] == "x"
    assert probe(path).has_audio and read_audio(path, samples=99, sample_rate=16000)[1]
    assert np.abs(read_video(path, frames=8, fps=FPS, height=HEIGHT, width=WIDTH).astype(int) - video).mean() < 4


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_metadata_keeps_its_names(ending, tmp_path):
    metadata = {"prompt": "a red ball; it's round\nin two lines", "seed": "18446744073709551615", "num_frames": "17"}
    write_video(tmp_path / f"a.{ending}", np.stack([bars(1)] * 4), FPS, metadata=metadata)
    assert read_metadata(tmp_path / f"a.{ending}").items() >= metadata.items()


def test_tags_of_another_encoding_do_not_stop_a_file(tmp_path):
    path = make(tmp_path / "a.avi", video="mpeg4", sound=None, tag={"title": "caf##"})
    data = path.read_bytes()
    assert b"caf##" in data
    path.write_bytes(data.replace(b"caf##", b"caf\xe9\xff"))
    assert numbers(path, 0.0, 3, FPS) == [0, 1, 2] and read_metadata(path) is not None


def test_a_place_that_cannot_be_written_gets_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    for place in ("file/a.mp4", "file/b/a.mp4"):
        with pytest.raises(UserError, match="cannot be written"):
            write_video(tmp_path / place, np.stack([bars(1)] * 4), FPS)
    for rate in (0.0001, 1e6):
        with pytest.raises(UserError, match="frames a second"):
            write_video(tmp_path / "a.mp4", np.stack([bars(1)] * 4), rate)
    assert os.listdir(tmp_path) == ["file"]


def test_a_changed_file_is_looked_at_again(tmp_path):
    path = make(tmp_path / "a.mp4", frames=10)
    assert probe(path).height == HEIGHT
    write_video(path, np.zeros((4, 32, 32, 3), np.uint8), FPS)
    assert probe(path).height == 32 and FRAMES > 4
