"""The shipped toy: clips with sound, reproducible, independent of their batch, written with their metadata."""

import json

import av
import numpy as np
import pytest

import ltx_jax
from ltx_jax.data.raw.toyworld import render
from ltx_jax.media.images import write_png
from ltx_jax.media.video import probe, read_metadata
from ltx_jax.pipelines.runner import BATCH


@pytest.fixture(scope="module")
def model():
    return ltx_jax.load("toy")


@pytest.fixture(scope="module")
def clips(model):
    return ltx_jax.generate(model, ("a red circle", "a blue square"), seed=3, steps=4)


def test_clips_have_the_release_sizes(clips):
    for clip in clips:
        assert clip.video.shape == (17, 32, 32, 3) and clip.video.dtype == np.uint8
        assert clip.audio.shape[0] == 2 and np.isfinite(clip.audio).all() and np.abs(clip.audio).max() <= 1


def test_equal_seeds_give_equal_bits_and_other_seeds_other_clips(model, clips):
    again = ltx_jax.generate(model, ("a red circle", "a blue square"), seed=3, steps=4)
    other = ltx_jax.generate(model, ("a red circle", "a blue square"), seed=4, steps=4)
    assert np.array_equal(clips[0].video, again[0].video) and np.array_equal(clips[0].audio, again[0].audio)
    assert not np.array_equal(clips[0].video, other[0].video)


def test_a_clip_does_not_depend_on_the_others(model, clips):
    (alone,) = ltx_jax.generate(model, "a red circle", seed=3, steps=4)
    difference = np.abs(alone.video.astype(int) - clips[0].video.astype(int))
    assert difference.max() <= 2  # one rounding of pixels apart: the batch changes the order of sums
    assert BATCH > 1


def test_the_first_frame_follows_the_picture(model, tmp_path):
    picture = render(5, 3).video[0]  # one big shape: the small toy VAE shows it well
    path = write_png(picture, tmp_path / "first.png")
    (held,) = ltx_jax.generate(model, "a red circle", seed=3, steps=4, image=str(path))
    (free,) = ltx_jax.generate(model, "a red circle", seed=3, steps=4)
    error = lambda clip: np.abs(clip.video[0].astype(float) - picture).mean()
    assert error(held) < 12 and error(held) < error(free) / 2


def test_the_file_has_both_codecs_and_its_origin(clips, tmp_path):
    path = clips[0].save(tmp_path / "out.mp4")
    info = probe(path)
    assert (info.frames, info.fps, info.width, info.has_audio) == (17, 8.0, 32, True)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.streams.audio[0].codec_context.name == "aac"
    metadata = read_metadata(path)
    assert metadata["prompt"] == "a red circle" and metadata["seed"] == "3"
    assert json.loads(metadata["config"])["steps"] == 4
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # ready to stream
