"""Host audio: channel rules, resampling of tones, PCM."""

import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.media import audio


def test_channel_rules():
    rng = np.random.default_rng(0)
    for channels in (1, 3, 4, 5, 7):
        wave = rng.normal(size=(channels, 9))
        np.testing.assert_allclose(audio.to_stereo(wave), np.stack([wave.mean(0)] * 2), rtol=1e-5)
    stereo = rng.normal(size=(2, 9)).astype(np.float32)
    np.testing.assert_array_equal(audio.to_stereo(stereo), stereo)
    np.testing.assert_array_equal(audio.to_stereo(stereo[0]), stereo[[0, 0]])
    six = rng.normal(size=(6, 9))
    expected = np.stack([six[0] + 0.707 * (six[2] + six[4]), six[1] + 0.707 * (six[2] + six[5])]) / 2.414
    np.testing.assert_allclose(audio.to_stereo(six), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [6, 8])
def test_downmix_never_clips_and_drops_the_subwoofer(channels):
    ones = np.ones((channels, 4))
    np.testing.assert_allclose(audio.to_stereo(ones), 1, rtol=1e-6)
    ones[3] = 100
    np.testing.assert_allclose(audio.to_stereo(ones), 1, rtol=1e-6)


@pytest.mark.parametrize("orig, new", [(48000, 16000), (44100, 16000), (22050, 16000), (8000, 16000), (16000, 24000)])
def test_resampling_keeps_a_tone(orig, new):
    tone = lambda rate: np.sin(2 * np.pi * 440 * np.arange(rate // 4) / rate)[None].astype(np.float32)
    out = audio.resample(tone(orig), orig, new)
    assert out.dtype == np.float32 and out.shape == (1, -(-(orig // 4) * new // orig))
    np.testing.assert_allclose(out[:, 200:-200], tone(new)[:, 200 : out.shape[1] - 200], atol=2e-3)


def test_resampling_in_blocks_changes_nothing(monkeypatch):
    wave = np.random.default_rng(0).normal(size=(2, 3000)).astype(np.float32)
    whole = audio.resample(wave, 48000, 16000)
    monkeypatch.setattr(audio, "BLOCK", 7)
    np.testing.assert_allclose(audio.resample(wave, 48000, 16000), whole, atol=1e-6)
    assert audio.resample(wave, 16000, 16000) is wave


@pytest.mark.parametrize("rates", [(0, 16000), (16000, -1), (44100.5, 16000), (44101, 96001)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(UserError):
        audio.resample(np.zeros((1, 10), np.float32), *rates)


def test_pcm_clips_truncates_and_round_trips():
    wave = np.array([[-2, -1, 0, 0.99999, 1, 2]], np.float32)
    np.testing.assert_array_equal(audio.pcm16(wave), [[-32767, -32767, 0, 32766, 32767, 32767]])
    assert np.abs(audio.from_pcm(audio.pcm16(wave)) - np.clip(wave, -1, 1)).max() < 1e-4
    np.testing.assert_array_equal(audio.from_pcm(np.array([0, 128], np.uint8)), [-1, 0])
    np.testing.assert_array_equal(audio.from_pcm(np.array([-(2**31)], np.int32)), [-1])


def test_broken_samples_are_refused():
    with pytest.raises(UserError, match="NaN"):
        audio.pcm16(np.array([np.nan], np.float32))
    with pytest.raises(UserError, match="uint16"):
        audio.from_pcm(np.zeros(3, np.uint16))
    with pytest.raises(UserError, match="channels"):
        audio.to_stereo(np.zeros((1, 2, 3)))
