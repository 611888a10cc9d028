"""PSNR against its definition, and the reconstruction report on written files."""

import numpy as np
import pytest

import ltx_jax
from ltx_jax.errors import UserError
from ltx_jax.evaluation.reconstruction import evaluate_reconstruction, psnr
from ltx_jax.media.video import write_video


def test_psnr_is_that_of_a_known_error():
    a = np.full((2, 4, 4, 3), 100, np.uint8)
    assert psnr(a, a + 10) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(a, a) > 100


def test_a_plain_clip_is_kept_better_than_noise(tmp_path):
    rng = np.random.default_rng(0)
    plain = np.full((20, 32, 32, 3), (16, 22, 58), np.uint8)  # a background of the toy world
    write_video(tmp_path / "plain.mp4", plain, 8.0)
    write_video(tmp_path / "noise.mp4", rng.integers(0, 255, plain.shape).astype(np.uint8), 8.0)
    report = evaluate_reconstruction(ltx_jax.load("toy").bundle, tmp_path, windows=1)
    assert set(report) == {"plain.mp4", "noise.mp4", "mean"}
    assert report["plain.mp4"] > 25 > 15 > report["noise.mp4"]
    assert report["mean"] == pytest.approx((report["plain.mp4"] + report["noise.mp4"]) / 2)


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(UserError, match="no video"):
        evaluate_reconstruction(ltx_jax.load("toy").bundle, tmp_path)
