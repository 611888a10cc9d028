"""Light survives an EXR file to half a float's precision, and the file says what its colours are."""

import struct

import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.media import exr

LIGHT = np.random.default_rng(0).random((50, 34, 3)).astype(np.float32) * 8


def test_light_comes_back_as_half_floats(tmp_path):
    path = exr.write_exr(tmp_path / "new" / "a.exr", LIGHT, "SRGB_LINEAR")
    np.testing.assert_array_equal(exr.read_exr(path), LIGHT.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(("space", "name"), [("SRGB_LINEAR", b"sRGB"), ("ACESCG", b"ACEScg"), ("ACESCCT", b"ACEScct")])
def test_the_header_names_the_colours(tmp_path, space, name):
    content = exr.write_exr(tmp_path / "a.exr", LIGHT, space).read_bytes()
    where = content.index(b"colorSpace\0string\0") + 18
    assert content[where + 4 : where + 4 + struct.unpack_from("<i", content, where)[0]] == name
    where = content.index(b"chromaticities\0chromaticities\0") + 30 + 4
    primaries = exr.CHROMATICITIES[exr.SPACES[space][0]]
    np.testing.assert_allclose(struct.unpack_from("<8f", content, where), primaries, rtol=1e-6)


def test_numbers_that_no_half_float_holds(tmp_path):
    odd = LIGHT.copy()
    odd[0, 0] = [1e9, np.nan, -np.inf]
    read = exr.read_exr(exr.write_exr(tmp_path / "a.exr", odd, "ACESCG"))
    np.testing.assert_array_equal(read[0, 0], [65504, 0, -65504])


def test_frames_are_listed_by_name(tmp_path):
    for name in ("b.exr", "c.EXR", "a.exr"):
        exr.write_exr(tmp_path / name, LIGHT, "ACESCCT")
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in exr.exr_frames(tmp_path)] == ["a.exr", "b.exr", "c.EXR"]


def test_mistakes_are_sentences(tmp_path):
    (tmp_path / "broken.exr").write_bytes(b"v/1\x01" + bytes(100))
    (tmp_path / "text.exr").write_text("no picture")
    for path, words in [("none.exr", "no picture"), ("broken.exr", "cannot|can be read"), ("text.exr", "can be read")]:
        with pytest.raises(UserError, match=words):
            exr.read_exr(tmp_path / path)
    with pytest.raises(UserError, match="no EXR frames"):
        exr.exr_frames(tmp_path / "none")
    with pytest.raises(UserError, match="must end in"):
        exr.write_exr(tmp_path / "a.png", LIGHT, "ACESCG")
