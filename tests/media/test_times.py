"""Pictures and sound at their times: one zero for both, windows from anywhere, what edit lists hide, varying rates."""

import itertools

import av
import numpy as np
import pytest
from films import FPS, FRAMES, HEIGHT, KINDS, TONE, WIDTH, copy, make, number, numbers, onset

from ltx_jax.data.buckets import parse_buckets
from ltx_jax.data.preparation.clips import ClipRules, Video, plan_video
from ltx_jax.errors import UserError
from ltx_jax.media.film import shown_frames
from ltx_jax.media.video import probe, read_all, read_audio

SHIFTS = {"none": {}, "both": {"video": 1.4, "audio": 1.4}, "film": {"video": 0.48}, "sound": {"audio": 0.72}}


@pytest.mark.parametrize("ending", KINDS)
def test_picture_and_sound_count_from_the_first_picture(ending, tmp_path):
    shifts = SHIFTS if ending != "avi" else {"none": {}}  # an AVI has no times of its own
    for name, late in shifts.items():
        path = make(tmp_path / f"{name}.{ending}", late=late, **KINDS[ending])
        info = probe(path)
        assert (info.fps, info.has_audio) == (FPS, True) and abs(info.seconds - 4.0) < 0.002, name
        assert info.frames in (0, FRAMES), name
        assert numbers(path, 0.0, 8, 2) == [int(12.5 * i) for i in range(8)], name
        expected = TONE + late.get("audio", 0.0) - late.get("video", 0.0)
        for start in (expected - 1.9, expected - 0.6):
            assert abs(onset(path, max(0.0, start)) - expected) < 0.01, (name, start)


@pytest.mark.parametrize("ending", KINDS)
def test_windows_show_what_is_shown_from_the_start(ending, tmp_path):
    path = make(tmp_path / f"a.{ending}", **KINDS[ending])
    for start in (0.02, 0.44, 0.58, 0.96, 1.2, 2.3, 3.1, 3.9):
        assert numbers(path, start, 4, FPS) == [min(FRAMES - 1, int(FPS * start + i + 1e-6)) for i in range(4)], start


@pytest.mark.parametrize("ending, options", [
    ("ts", {"x264-params": "open-gop=1:keyint=15:min-keyint=15:scenecut=0"}),
    ("mkv", {"x264-params": "open-gop=1:keyint=15:min-keyint=15:scenecut=0"}),
    ("ts", {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}),
    ("mp4", {"g": "250"}),
])  # fmt: skip
def test_windows_of_other_groups_of_pictures(ending, options, tmp_path):
    path = make(tmp_path / f"a.{ending}", options=options, sound=None)
    look = lambda start: [(s.time, number(s.picture(HEIGHT, WIDTH))) for s in shown_frames(path, start)]
    whole = look(0.0)
    assert [n for _, n in whole] == list(range(FRAMES))
    for start in (0.5, 1.16, 2.2, 3.3, 3.9):
        window = look(start)
        assert window[0][0] <= start + 1e-3 and window == whole[-len(window) :], start


def test_a_seek_does_not_read_from_the_start(tmp_path):
    path = make(tmp_path / "a.mp4", sound=None)
    first = next(shown_frames(path, 3.5))
    assert 3.0 < first.time <= 3.5


@pytest.mark.parametrize("ending", ["mkv", "flv", "ts", "mov", "mp4"])
def test_rounded_times_lose_no_frame(ending, tmp_path):
    rate = 30000 / 1001
    path = make(tmp_path / f"a.{ending}", sound=None, at=lambda i: i / rate)
    assert numbers(path, 0.0, FRAMES, rate) == list(range(FRAMES))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "flv"])
def test_frames_of_varying_length(ending, tmp_path):
    lengths = 10 * np.random.default_rng(0).integers(1, 10, FRAMES)
    at = np.cumsum(lengths) / 1000 - lengths[0] / 1000
    path = make(tmp_path / f"a.{ending}", sound=None, at=lambda i: float(at[i]))
    for start in (0.003, 1.003, 2.333, 4.003):
        wanted = start + np.arange(5) / 8
        assert numbers(path, start, 5, 8) == (np.searchsorted(at, wanted, side="right") - 1).tolist()


def test_the_clock_of_a_transport_stream_may_overflow(tmp_path):
    path = make(tmp_path / "a.ts", late={"video": 95441.0, "audio": 95441.0})  # its 33 bits end at second 95443.7
    assert numbers(path, 1.6) == [40, 52, 65, 77] and abs(onset(path, 1.5) - TONE) < 0.01


@pytest.mark.parametrize("later, words", [(0.0, "back in time"), (7200.0, "ahead in time at second 3.96")])
def test_two_recordings_in_one_are_refused(later, words, tmp_path):
    first = make(tmp_path / "1.ts", sound=None)
    second = make(tmp_path / "2.ts", sound=None, frames=20, late={"video": later})
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    reason = plan_video(Video(str(tmp_path / "both.ts"), "b", ""), rules(9))
    assert isinstance(reason, str) and "both.ts" in reason and words in reason
    assert numbers(tmp_path / "both.ts", 1.0) == [25, 37, 50, 62]  # what lies before it can be read


@pytest.mark.parametrize("sound", ["mp2", "libmp3lame", "ac3", "aac"])
def test_coded_sound_of_an_avi_is_not_late(sound, tmp_path):
    path = make(tmp_path / "a.avi", video="mpeg4", sound=sound)
    assert all(abs(onset(path, start) - TONE) < 0.002 for start in (0.1, 1.4))


def test_a_rate_that_cannot_be_brought_to_the_models_is_named_with_its_file(tmp_path):
    path = make(tmp_path / "odd.mkv", sound="pcm_s16le", rate=47999)
    with pytest.raises(UserError, match=r"odd\.mkv.*47999 to 16000 Hz"):
        read_audio(path, samples=16000, sample_rate=16000)


def rules(frames):
    return ClipRules(parse_buckets([f"{WIDTH}x{HEIGHT}x{frames}"], 8.0), 16000, scenes=False)


@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_frames_that_an_edit_list_hides_are_not_missed(ending, tmp_path):
    source = make(tmp_path / f"a.{ending}", options={"g": "250"})
    keep = lambda packet: packet.stream.type == "video" or packet.pts * packet.time_base >= 1.6
    path = copy(source, tmp_path / f"trim.{ending}", keep, late=-1.6)  # cut by copying, between key frames
    info = probe(path)
    assert info.frames == 60 == len(read_all(path, HEIGHT, WIDTH)[0]) and abs(info.seconds - 2.4) < 0.01
    assert numbers(path) == [40, 52, 65, 77] and numbers(path, 1.28, 4, 5) == [72, 77, 82, 87]
    assert abs(onset(path) - 0.4) < 0.01
    clips = plan_video(Video(str(path), "t", ""), rules(9))
    assert [clip.start for clip in clips] == [0.0, 1.125]


def test_the_last_frame_lasts_as_long_as_it_says(tmp_path):
    at = lambda i: i / FPS if i < 9 else 2.0
    path = make(tmp_path / "a.gif", video="gif", sound=None, frames=10, at=at, prepare=as_gif, options={"bf": "0"})
    times = [(shown.time, shown.end) for shown in shown_frames(path)]
    info = probe(path)
    assert abs(info.seconds - times[-1][1]) < 1e-6 and times[-1][0] == 2.0
    assert [clip.start for clip in plan_video(Video(str(path), "g", ""), rules(int(8 * info.seconds)))] == [0.0]


def as_gif(stream):
    stream.pix_fmt = "rgb8"


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_a_gap_in_the_sound_is_silence_at_its_place(ending, tmp_path):
    source = make(tmp_path / ("a.ts" if ending == "ts" else "a.mp4"))
    with av.open(str(source)) as container:
        film = container.streams.video[0]
        begin = float(film.start_time * film.time_base)
    keep = lambda packet: packet.stream.type == "video" or not 2.5 <= packet.pts * packet.time_base - begin < 3.2
    path = copy(source, tmp_path / f"gap.{ending}", keep)
    for start in (0.0, 2.2):
        samples = int((3.8 - start) * 100) * 160
        wave, heard = read_audio(path, samples=samples, sample_rate=16000, start=start)
        loud = np.abs(wave[0]).reshape(-1, 160).max(axis=1) > 0.1  # (hundredths of a second,)
        edges = [start + (i + 1) / 100 for i, (a, b) in enumerate(itertools.pairwise(loud)) if a != b]
        expected = [time for time in (TONE, 2.5, 3.2) if time > start]
        assert heard and len(edges) == len(expected) and np.allclose(edges, expected, atol=0.1), (start, edges)


def test_sound_without_a_film(tmp_path):
    with av.open(str(make(tmp_path / "a.mp4"))) as read, av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as write:
        stream = write.add_stream_from_template(read.streams.audio[0])
        for packet in read.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)
    assert abs(onset(tmp_path / "a.m4a", 0.0, 3.0) - TONE) < 0.01
    with pytest.raises(UserError, match=r"a\.m4a.*no video track"):
        probe(tmp_path / "a.m4a")
