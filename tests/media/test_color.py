"""Curves invert and join, primaries keep white, HLG puts diffuse white in its place, YUV codes mean what they say."""

import av
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.media import color, yuv
from ltx_jax.media.coding import HLG
from ltx_jax.media.video import read_audio, write_video

LIGHT = np.concatenate([np.linspace(0, 0.02, 400), np.geomspace(0.0201, 50, 400)]).astype(np.float32)


@pytest.mark.parametrize("curve", color.LOG_SPACES)
def test_log_curves_invert_rise_and_have_no_step(curve):
    space = color.LOG_SPACES[curve]
    code = space.compress(LIGHT)
    np.testing.assert_allclose(space.decompress(code), LIGHT, rtol=2e-4, atol=1e-5)
    rise = np.diff(code[:400])  # across the end of the straight part
    assert np.all(np.diff(code) > 0) and rise.max() < 1.1 * rise[0]
    assert space.compress(np.float32([-1.0]))[0] == space.compress(np.float32([0.0]))[0]
    assert space.compress(np.float32([1e9]))[0] == 1


def test_primaries_keep_white_and_come_back():
    white = np.ones(3, np.float32)
    for pair in color.MATRICES:
        np.testing.assert_allclose(color.convert(white, *pair), white, atol=2e-3)
    some = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(
        color.convert(color.convert(some, "rec709", "acescg"), "acescg", "rec709"), some, atol=1e-5
    )
    np.testing.assert_array_equal(color.convert(some, "rec709", "rec709"), some)
    with pytest.raises(UserError, match="no way"):
        color.convert(some, "rec2020", "rec709")


@pytest.mark.parametrize("curve", color.LOG_SPACES)
@pytest.mark.parametrize("primaries", ["rec709", "acescg"])
def test_working_spaces_give_light_back(curve, primaries):
    some = np.random.default_rng(1).random((3, 4, 3)).astype(np.float32) * 0.2 + 0.5  # within both gamuts
    code = color.to_log(some, curve, primaries)
    assert code.min() >= 0 and code.max() <= 1
    np.testing.assert_allclose(color.from_log(code, curve, primaries), some, rtol=3e-3, atol=3e-3)


def test_hlg_puts_white_at_three_quarters_and_rolls_highlights_off():
    grey = np.repeat(np.float32([0, 0.18, 0.9999, 1.0, 1.0001, 4, 1e6, np.inf, np.nan])[:, None], 3, axis=1)
    signal = color.hlg(grey)[:, 0]
    assert signal[0] == 0 and signal[-1] == 0 and signal[-2] == 1
    assert np.isclose(signal[3], 0.75, atol=1e-4)
    assert np.all(np.diff(signal[:7]) > 0) and signal[6] <= 1
    slope = np.diff(signal[2:5])
    assert np.isclose(slope[0], slope[1], rtol=0.1)  # no kink at white


def test_codes_of_black_white_and_colours():
    picture = np.zeros((2, 8, 3), np.float32)
    picture[:, 2:4], picture[:, 4:6, 0], picture[:, 6:, 2] = 1, 1, 1
    for matrix in yuv.MATRICES:
        y, u, v = yuv.planes(picture, matrix, bits=10)
        assert y.dtype == np.uint16 and y.shape == (2, 8) and u.shape == v.shape == (1, 4)
        assert y[0, 0] == 64 and y[0, 2] == 940 and u[0, 0] == v[0, 1] == 512
        assert v[0, 2] == 960 and u[0, 3] == 960  # red and blue at the ends of their range
        full = yuv.planes(picture, matrix, full_range=True)
        assert full[0][0, 0] == 0 and full[0][0, 2] >= 254  # cut off, not rounded
    flat = yuv.packed(*yuv.planes(picture, "bt709"))
    assert flat.shape == (3, 8) and flat.ravel()[16:20].tolist() == yuv.planes(picture, "bt709")[1].ravel().tolist()
    with pytest.raises(UserError, match="even height and width, not 3 x 8"):
        yuv.planes(np.zeros((3, 8, 3)), "bt709")


def test_the_range_of_the_vae():
    np.testing.assert_array_equal(color.to_vae_range(np.float32([0, 0.5, 1])), [-1, 0, 1])
    np.testing.assert_array_equal(color.from_vae_range(np.float32([-2, 0, 3])), [0, 0.5, 1])
    with pytest.raises(UserError, match="within 0 and 1"):
        color.to_vae_range(np.float32([1.5]))
    with pytest.raises(UserError, match="within 0 and 1"):
        color.to_vae_range(np.float32([np.nan]))


def test_srgb_is_the_standards_curve():
    np.testing.assert_allclose(
        color.srgb(np.float32([0, 0.0031308, 0.18, 1, 7])), [0, 0.04045, 0.4614, 1, 1], atol=1e-4
    )


@pytest.mark.parametrize(("ending", "tag"), [("mp4", "hvc1"), ("mov", "hvc1"), ("mkv", None)])
def test_light_is_written_as_a_film_of_ten_bits(tmp_path, ending, tag):
    light = np.zeros((64, 64, 3), np.float32) + np.float32([0.2, 0.5, 4.0])
    frames = [light * gain for gain in (0.5, 1.0, 2.0)]
    sound = np.zeros((2, 16000), np.float32)
    path = write_video(tmp_path / f"light.{ending}", frames, 23.976, sound, coding=HLG)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("hevc", "yuv420p10le") and tag in (None, context.codec_tag)
        assert (context.color_primaries, context.color_trc, context.colorspace) == (9, 18, 9)
        assert context.color_range == 1 and np.isclose(float(stream.average_rate), 23.976, atol=1e-3)
        read = [frame.to_ndarray() for frame in container.decode(stream)]
    assert len(read) == 3 and read_audio(path, samples=1000, sample_rate=16000)[1]
    for picture, frame in zip(frames, read, strict=True):
        y = yuv.planes(color.hlg(picture), "bt2020", bits=10)[0]
        assert abs(float(frame[:64].mean()) - float(y.mean())) < 2
