"""Films as they are meant to be seen: eight display matrices, tags of other containers, pixels that are not square."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from films import make

from ltx_jax.data.buckets import parse_buckets
from ltx_jax.data.preparation.clips import ClipRules, Video, plan_video
from ltx_jax.errors import UserError
from ltx_jax.media.video import probe, read_all, read_video

TALL, WIDE, ONE = 48, 96, 1 << 16
STRAIGHT = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)]
CROSSED = [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]
EIGHT = STRAIGHT + CROSSED


@pytest.fixture(scope="module")
def corner():
    """White in the upper left quarter."""
    picture = np.zeros((TALL, WIDE, 3), np.uint8)
    picture[: TALL // 2, : WIDE // 2] = 255
    return [picture] * 6


def film(path, pictures, matrix=None, ratio=None, **more):
    def prepare(stream):
        if matrix:
            a, b, c, d = (ONE * x for x in matrix)
            stream.set_display_matrix([int(x) for x in (a, b, 0, c, d, 0, 0, 0, 1 << 30)])
        if ratio:
            stream.codec_context.sample_aspect_ratio = ratio

    return make(path, sound=None, frames=len(pictures), pictures=pictures, prepare=prepare, **more)


def place(matrix):
    """Where the white quarter must be: (is it below, is it on the right)."""
    a, b, c, d = matrix
    return (-b - d) > 0, (-a - c) > 0  # the quarter's middle lies at (-1, -1) from the picture's


def check(path, matrix):
    crossed = matrix in CROSSED
    height, width = (WIDE, TALL) if crossed else (TALL, WIDE)
    info = probe(path)
    assert (info.height, info.width) == (height, width), matrix
    window = read_video(path, frames=1, fps=10, height=height, width=width, start=0.1)
    for picture in (window[0], read_all(path, height, width)[0][0]):
        quarters = [
            (below, right)
            for below, right in itertools.product((False, True), repeat=2)
            if picture[height // 4 + below * height // 2, width // 4 + right * width // 2].mean() > 127
        ]
        assert quarters == [place(matrix)], matrix


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_all_turns_and_mirrors(ending, corner, tmp_path):
    matrices = EIGHT if ending != "mkv" else [m for m in EIGHT if m in STRAIGHT or m[1] * m[2] < 0]
    for number, matrix in enumerate(matrices):
        check(film(tmp_path / f"{number}.{ending}", corner, matrix), matrix)


def test_scaled_and_inexact_matrices_and_empty_ones(corner, tmp_path):
    check(film(tmp_path / "double.mp4", corner, (0, 2, -2, 0)), (0, 1, -1, 0))
    check(film(tmp_path / "nearly.mp4", corner, (0.001, 0.9999, -0.9999, 0.001)), (0, 1, -1, 0))
    slanted = film(tmp_path / "slanted.mp4", corner, (0.7, 0.7, -0.7, 0.7))
    with pytest.raises(UserError, match=r"slanted\.mp4.*slant"):
        probe(slanted)


@pytest.mark.parametrize("degrees, matrix", [("90", (0, 1, -1, 0)), ("-90", (0, -1, 1, 0)), ("180", (-1, 0, 0, -1))])
def test_a_tag_counts_where_there_is_no_matrix(degrees, matrix, corner, tmp_path):
    check(film(tmp_path / "a.mkv", corner, tag={"ROTATE": degrees}), matrix)


def test_a_tag_that_cannot_be_followed_gets_a_sentence(corner, tmp_path):
    with pytest.raises(UserError, match=r"a\.mkv.*'45'"):
        probe(film(tmp_path / "a.mkv", corner, tag={"rotate": "45"}))


def test_a_turned_film_goes_to_the_bucket_of_its_displayed_size(corner, tmp_path):
    path = film(tmp_path / "phone.mp4", corner * 8, (0, 1, -1, 0))
    rules = ClipRules(parse_buckets(["64x32x9", "32x64x9"], 8.0), 16000)
    assert plan_video(Video(str(path), "p", ""), rules)[0].bucket.name == "32x64x9@8"


@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(1, 2), Fraction(8, 9), Fraction(64, 45)])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "mov"])
def test_a_disc_is_round(ratio, ending, tmp_path):
    """Stored with `ratio` as a pixel's width over its height, upright and turned by a quarter."""
    high = 96
    wide = 2 * round(high / float(ratio) / 2)
    y, x = np.mgrid[:high, :wide].astype(float)
    disc = ((y - high / 2 + 0.5) ** 2 + (float(ratio) * (x - wide / 2 + 0.5)) ** 2 < 36**2) * np.uint8(200)
    pictures = [np.repeat(disc[..., None], 3, axis=2).astype(np.uint8)] * 3
    for matrix in (None, (0, 1, -1, 0)) if ending in ("mp4", "mov") else (None,):
        path = film(tmp_path / f"{bool(matrix)}.{ending}", pictures, matrix, ratio)
        info = probe(path)
        assert abs(info.height - high) <= 1 and abs(info.width - high) <= 1
        rows, columns = np.where(read_video(path, frames=1, fps=10, height=96, width=96)[0, ..., 0] > 100)
        assert abs(np.ptp(rows) - 71) <= 2 and abs(np.ptp(columns) - 71) <= 2, (np.ptp(rows), np.ptp(columns))


def test_a_pixel_that_no_one_meant_gets_a_sentence(corner, tmp_path):
    with pytest.raises(UserError, match=r"a\.mp4.*aspect ratio"):
        probe(film(tmp_path / "a.mp4", corner, ratio=Fraction(30)))
