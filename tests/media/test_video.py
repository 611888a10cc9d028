"""Video files: what is written comes back; bad files get a sentence."""

import numpy as np
import pytest

from ltx_jax.data.raw.toyworld import ToyWorldConfig, render
from ltx_jax.errors import UserError
from ltx_jax.media.audio import resample
from ltx_jax.media.video import probe, read_audio, read_metadata, read_video, write_video


@pytest.fixture(scope="module")
def clip():
    return render(0, 0, ToyWorldConfig(size=64))


@pytest.fixture(scope="module")
def file(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_video(path, clip.video, 8, clip.audio, 16000, {"prompt": "a red circle", "seed": "7"})


def test_a_clip_comes_back(clip, file):
    video = read_video(file, frames=17, fps=8, height=64, width=64)
    assert np.abs(video.astype(int) - clip.video).mean() < 4
    audio, heard = read_audio(file, samples=30000, sample_rate=16000)
    assert heard and np.corrcoef(audio[0], clip.audio[0, :30000])[0, 1] > 0.99
    info = probe(file)
    assert (info.frames, info.fps, info.height, info.width, info.has_audio) == (17, 8, 64, 64, True)


def test_metadata_comes_back_and_no_other_file_is_left(file):
    kept = read_metadata(file)
    assert kept["prompt"] == "a red circle" and kept["seed"] == "7"
    assert [p.name for p in file.parent.iterdir()] == ["clip.mp4"]


def test_time_is_kept_at_another_rate(clip, file):
    start = 5 / 8
    video = read_video(file, frames=6, fps=4, height=64, width=64, start=start)
    for i, frame in enumerate(video):
        assert np.abs(frame.astype(int) - clip.video[5 + 2 * i]).mean() < 4
    doubled = read_video(file, frames=8, fps=16, height=64, width=64)
    np.testing.assert_array_equal(doubled[0::2], doubled[1::2])


def test_a_fractional_rate_is_exact(clip, tmp_path):
    assert probe(write_video(tmp_path / "n.mp4", clip.video, 30000 / 1001)).fps == 30000 / 1001


def test_sound_starts_with_the_window(clip, file):
    audio, _ = read_audio(file, samples=8000, sample_rate=8000, start=0.75)
    expected = resample(clip.audio[:, 12000:], 16000, 8000)[:, :8000]
    assert np.corrcoef(audio[0], expected[0])[0, 1] > 0.98


def test_a_file_without_sound_is_silent(clip, tmp_path):
    audio, heard = read_audio(write_video(tmp_path / "m.mp4", clip.video, 8), samples=100, sample_rate=16000)
    assert not heard and audio.shape == (2, 100) and not audio.any()


def test_bad_files_get_a_sentence(clip, file, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(file.read_bytes()[:400])
    for name in ("text.mp4", "empty.mp4", "cut.mp4", "absent.mp4"):
        with pytest.raises(UserError):
            probe(tmp_path / name)
    with pytest.raises(UserError, match="no video"):
        write_video(tmp_path / "x.txt", clip.video, 8)
    with pytest.raises(UserError, match="even"):
        write_video(tmp_path / "x.mp4", clip.video[:, :63], 8)
    assert not (tmp_path / "x.mp4").exists()
