"""Splits, masks and tiled runs (spec video_vae.md section 6)."""

import itertools

import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.tiling import Tiling, decode_plan, encode_plan, long_side_tiling, tiled_decode, tiled_encode
from ltx_jax.splits import by_count, by_size, trapezoid, with_sacrificial_start

FACTORS = (8, 32, 32)


@pytest.mark.parametrize("length", [3, 7, 12, 29])
@pytest.mark.parametrize("size, overlap", [(4, 1), (5, 2), (6, 0)])
def test_by_size_covers_the_axis(length, size, overlap):
    tiles = by_size(length, size, overlap)
    assert tiles[0].start == 0 and tiles[-1].end == length
    for before, after in itertools.pairwise(tiles):
        assert before.end - after.start == before.right == after.left == overlap


@pytest.mark.parametrize("length, count, overlap", [(12, 3, 2), (13, 4, 0), (9, 2, 1)])
def test_by_count_makes_that_many(length, count, overlap):
    tiles = by_count(length, count, overlap)
    assert len(tiles) == count and tiles[-1].end == length
    assert max(t.length for t in tiles) - min(t.length for t in tiles) <= 1
    causal = with_sacrificial_start(tiles)
    assert [t.start for t in causal[1:]] == [t.start - 1 for t in tiles[1:]]


def test_trapezoids_are_complementary():
    down, up = trapezoid(6, 0, 3, False), trapezoid(6, 3, 0, False)
    np.testing.assert_allclose(down[-3:] + up[:3], 1, rtol=1e-6)
    assert trapezoid(4, 2, 0, True)[0] == 0


@pytest.mark.parametrize("shape", [(1, 3, 4), (16, 17, 30), (33, 25, 9)])
def test_masks_of_the_default_tiling_sum_to_one(shape):
    assert decode_plan(shape, Tiling(), FACTORS).complementary


@pytest.mark.parametrize("tiling", [Tiling("size", (16, 8), (64, 32), None), Tiling("count", (2, 3), None, (2, 2))])
def test_a_local_function_is_not_changed_by_tiling(tiling):
    latents = np.random.default_rng(0).random((1, 6, 4, 5, 2)).astype(np.float32)

    def decode(x):  # every latent frame but the first stands for 8 frames
        frames = np.repeat(x, [1] + [8] * (x.shape[1] - 1), axis=1)
        return frames.repeat(32, axis=2).repeat(32, axis=3)

    chunks = list(tiled_decode(decode, latents, tiling, FACTORS))
    assert len(chunks) > 1
    np.testing.assert_allclose(np.concatenate(chunks, axis=1), decode(latents), rtol=1e-5, atol=1e-6)


def test_encoding_cuts_what_does_not_fit():
    video = np.random.default_rng(0).random((1, 43, 200, 72, 3)).astype(np.float32)
    encode = lambda x: x[:, ::8, : x.shape[2] // 32 * 32 : 32, : x.shape[3] // 32 * 32 : 32]
    tiling = Tiling("size", (32, 16), (128, 64), None)
    tiled = tiled_encode(encode, video, tiling, FACTORS)
    np.testing.assert_allclose(tiled, video[:, :41:8, :192:32, :64:32], rtol=1e-5)


def test_automatic_tiling_of_the_long_side():
    tiling = long_side_tiling(704, 1280)
    assert (tiling.height, tiling.width) == ((416, 64), (768, 64))


@pytest.mark.parametrize(
    "run, words",
    [
        (lambda: Tiling("size", (8, 8)), "below the tile size"),
        (lambda: decode_plan((9, 9, 9), Tiling("size", (20, 4)), FACTORS), "multiples of 8"),
        (lambda: decode_plan((3, 9, 9), Tiling("count", (4, 0), None, None), FACTORS), "cannot be cut"),
        (lambda: encode_plan((9, 9, 9), Tiling("size", (32, 8), None, None), FACTORS), "overlap of at least 16"),
    ],
)
def test_mistakes_are_sentences(run, words):
    with pytest.raises(UserError, match=words):
        run()
