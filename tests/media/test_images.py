"""Pictures: orientation, transparency, covering; bad files get a sentence."""

import numpy as np
import pytest
from PIL import Image

from ltx_jax.errors import UserError
from ltx_jax.media.images import contact_sheet, cover, read_image, write_png


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


def test_a_picture_of_the_size_is_unchanged(picture, tmp_path):
    path = write_png(picture, tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path, 8, 12), picture)
    np.testing.assert_array_equal(cover(picture, 8, 12), picture)


def test_the_middle_is_kept(picture, tmp_path):
    path = write_png(picture, tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path, 8, 8), picture[:, 2:10])
    np.testing.assert_array_equal(cover(picture, 8, 8), picture[:, 2:10])


def test_orientation_is_applied_and_alpha_dropped(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png", 12, 8), np.rot90(picture, -1))
    clear = np.dstack([picture, np.zeros((8, 12), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png", 8, 12), picture)


def test_a_sheet_has_a_row_per_clip(picture, tmp_path):
    path = contact_sheet([np.stack([picture] * 3)] * 2, tmp_path / "sheet.png", scale=1)
    assert np.asarray(Image.open(path)).shape == (2 * 12, 3 * 16, 3)


def test_bad_files_get_a_sentence(picture, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.png", "absent.png"):
        with pytest.raises(UserError):
            read_image(tmp_path / name, 8, 8)
    with pytest.raises(UserError, match=r"\.png"):
        write_png(picture, tmp_path / "a.jpg")
    with pytest.raises(UserError, match="no clip"):
        contact_sheet([], tmp_path / "b.png")
