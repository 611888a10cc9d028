"""The bucket rule: what is chosen, and what is refused."""

import pytest

from ltx_jax.data.buckets import (
    Bucket,
    best_bucket,
    check_buckets,
    checked_buckets,
    choose_bucket,
    fit,
    parse_buckets,
    temporal_subsample,
)
from ltx_jax.errors import UserError


def test_a_video_shorter_than_every_bucket_has_none():
    assert choose_bucket((8, 64, 64), [(9, 64, 64)]) is None and fit((8, 64, 64), [(9, 64, 64)]) is None


def test_the_first_of_equal_buckets_wins_and_longer_beats_larger():
    assert choose_bucket((9, 64, 64), [(9, 32, 32), (9, 32, 32), (5, 64, 64)]) == (9, 32, 32)


@pytest.mark.parametrize("bucket", [(8, 64, 64), (9, 60, 64), (9, 64, 60), (9, 0, 64)])
def test_a_bucket_that_is_no_whole_number_of_cells_is_refused(bucket):
    with pytest.raises(UserError, match="does not fit"):
        check_buckets([bucket], (8, 32, 32))
    check_buckets([(9, 64, 64)], (8, 32, 32))


def test_thinning_needs_a_divisor():
    with pytest.raises(UserError, match="multiple of the factor"):
        temporal_subsample(17, 3)


def test_names_of_buckets_are_read():
    assert parse_buckets(["64x32x17", " 64x32x17@24", "8x8x1@source"], 8.0) == (
        Bucket(32, 64, 17, 8.0), Bucket(32, 64, 17, 24.0), Bucket(8, 8, 1, 0.0)
    )  # fmt: skip
    assert parse_buckets([Bucket(32, 64, 17, 23.976).name], 8.0)[0].fps == 23.976
    for names in (["64x32"], ["axbxc"], ["64x32x17", "64x32x17"], ["64x32x17@fast"]):
        with pytest.raises(UserError):
            parse_buckets(names, 8.0)
    with pytest.raises(UserError, match="does not fit the model"):
        checked_buckets(["33x32x17"], 8.0, (8, 32, 32))


def test_the_best_bucket_counts_frames_at_its_own_rate():
    slow, fast = Bucket(32, 32, 17, 8.0), Bucket(32, 32, 17, 25.0)
    assert best_bucket((32, 32), 3.0, 30.0, [slow, fast]) == fast  # the nearer rate
    assert best_bucket((32, 32), 3.0, 10.0, [slow, fast]) == slow
    assert best_bucket((32, 32), 1.0, 10.0, [slow, fast]) == fast  # 8 frames at 8 fps are too few
    assert best_bucket((32, 32), 0.5, 10.0, [slow, fast]) is None
    assert best_bucket((32, 32), 1.0, 29.97, [Bucket(32, 32, 17, 0.0)]) == Bucket(32, 32, 17, 29.97)
