"""Light goes through the model's codes and comes out as it went in."""

import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.media import exr, light
from ltx_jax.media.video import probe, read_metadata

LIGHT = np.random.default_rng(0).random((64, 96, 3)).astype(np.float32) * 3 + 0.5  # bright: within every gamut


@pytest.mark.parametrize("space", exr.SPACES)
def test_what_is_read_and_written_again_is_the_same_light(tmp_path, space):
    smooth = np.full((64, 96, 3), [0.5, 0.45, 0.4], np.float32) + np.linspace(0, 0.1, 96, dtype=np.float32)[:, None]
    exr.write_exr(tmp_path / "in.exr", smooth, space)
    codes = light.read_light(tmp_path / "in.exr", 64, 96, space)
    assert codes.shape == (64, 96, 3) and codes.min() >= 0 and codes.max() <= 1
    path = light.write_light(tmp_path / "out.mp4", [codes] * 3, 24.0, space)
    light.write_light(path, [codes, codes], 24.0, space, metadata={"prompt": "light"})
    frames = exr.exr_frames(light.exr_folder(path))
    assert len(list(tmp_path.iterdir())) == 3  # nothing temporary is left
    assert [frame.name for frame in frames] == ["frame_00000.exr", "frame_00001.exr"]
    np.testing.assert_allclose(exr.read_exr(frames[1]), smooth, rtol=4e-3)
    assert probe(path).frames == 2 and read_metadata(path)["prompt"] == "light"


def test_stills_are_cropped_and_references_padded(tmp_path):
    exr.write_exr(tmp_path / "in.exr", LIGHT, "ACESCG")
    still = light.read_light(tmp_path / "in.exr", 32, 32, "ACESCG")
    whole = light.read_light(tmp_path / "in.exr", 96, 96, "ACESCG", reference=True)
    assert still.shape == (32, 32, 3) and whole.shape == (96, 96, 3)
    np.testing.assert_array_equal(whole[64], whole[62])  # the rows below reflect


def test_spaces_are_known_whatever_their_case():
    assert light.check_space("acescct") == "ACESCCT"
    with pytest.raises(UserError, match="SRGB_LINEAR, ACESCG, ACESCCT"):
        light.check_space("rec2020")
