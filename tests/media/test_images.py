"""Pictures: orientation, transparency, covering; bad files get a sentence."""

import numpy as np
import pytest
from PIL import Image, ImageCms

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


RAMP = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))


def deep(name, folder):
    """The ramp from black to white in one of the ways in which deep greys are stored."""
    path = folder / f"{name}.{'png' if name == 'png' else 'pgm' if name == 'pgm' else 'tif'}"
    if name == "pgm":
        path.write_bytes(b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes())
    else:
        images = {
            "png": RAMP, "tif": RAMP, "big": RAMP, "int": (RAMP.astype(np.int64) * 32768).astype(np.int32),
            "float": (RAMP / 65535).astype(np.float32), "float255": (RAMP / 257).astype(np.float32),
        }  # fmt: skip
        image = Image.fromarray(images[name])
        if name == "big":
            image = Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes())
        image.save(path)
    return path


@pytest.mark.parametrize("name", ["png", "tif", "big", "int", "float", "float255", "pgm"])
def test_deep_greys_keep_their_ramp(name, tmp_path):
    picture = read_image(deep(name, tmp_path), 32, 32)
    assert np.abs(picture[16, [0, 8, 16, 24, 31], 0].astype(int) - [2, 67, 132, 197, 253]).max() <= 1
    assert (picture == picture[:1, :, :1]).all()


def test_deep_colours_keep_their_ramp(tmp_path):
    from struct import pack
    from zlib import compress, crc32

    rows = b"".join(b"\0" + row.astype(">u2").repeat(3).tobytes() for row in RAMP)
    chunk = lambda kind, data: pack(">I", len(data)) + kind + data + pack(">I", crc32(kind + data))
    head = pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", compress(rows)), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    picture = read_image(tmp_path / "a.png", 32, 32)[16, [0, 8, 16, 24, 31]]
    assert np.abs(picture.astype(int) - np.array([2, 67, 132, 197, 253])[:, None]).max() <= 1


def test_greys_beyond_every_range_get_a_sentence(tmp_path):
    for number, values in enumerate(([-1.0, 2.0], [0.0, 1e9], [np.nan, 1.0])):
        Image.fromarray(np.tile(np.array(values, np.float32), (8, 4))).save(tmp_path / f"{number}.tif")
        with pytest.raises(UserError, match=rf"{number}\.tif.*greys"):
            read_image(tmp_path / f"{number}.tif", 8, 8)


def test_profiles_are_applied_or_left(picture, tmp_path):
    for number, profile in enumerate((b"not a profile", b"\0" * 200, ImageCms.ImageCmsProfile(lab()).tobytes())):
        Image.fromarray(picture).save(tmp_path / f"{number}.png", icc_profile=profile)
        np.testing.assert_array_equal(read_image(tmp_path / f"{number}.png", 8, 12), picture)
    standard = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture).save(tmp_path / "standard.jpg", icc_profile=standard, quality=100)
    plain = np.asarray(Image.open(tmp_path / "standard.jpg"))
    assert np.abs(read_image(tmp_path / "standard.jpg", 8, 12).astype(int) - plain).max() <= 1
    # a profile with red and blue exchanged is another space, and must move the colours
    swapped = bytearray(standard)
    for a, b in ((b"rXYZ", b"____"), (b"bXYZ", b"rXYZ"), (b"____", b"bXYZ")):
        place = swapped.find(a, 128)
        swapped[place : place + 4] = b
    Image.new("RGB", (8, 8), (250, 0, 0)).save(tmp_path / "swapped.png", icc_profile=bytes(swapped))
    assert (read_image(tmp_path / "swapped.png", 8, 8)[0, 0] == (0, 0, 250)).all()


def lab():
    return ImageCms.createProfile("LAB")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_is_read(mode, tmp_path):
    image = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    path = tmp_path / f"a.{'jpg' if mode in ('CMYK', 'YCbCr') else 'png'}"
    (image if mode not in ("HSV", "PA") else image.convert("RGBA")).save(path)
    assert read_image(path, 8, 8).min() >= 245


def test_a_moving_picture_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for ending in ("gif", "png", "webp"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], lossless=True)
        assert read_image(tmp_path / f"a.{ending}", 8, 8)[0, 0].tolist() == [255, 0, 0]  # or nearly, of other encoders


def test_huge_and_cut_pictures_get_a_sentence(picture, tmp_path, monkeypatch):
    Image.fromarray(picture.repeat(8, 0).repeat(8, 1)).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.png"):
        read_image(tmp_path / "cut.png", 8, 8)
    write_png(picture, tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(UserError, match=r"big\.png.*million pixels"):
        read_image(tmp_path / "big.png", 8, 8)


def test_damaged_exif_does_not_stop_a_picture(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", quality=95)
    assert read_image(tmp_path / "a.jpg", 8, 12).shape == (8, 12, 3)


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
