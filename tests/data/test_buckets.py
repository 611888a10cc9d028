"""The bucket rule: what is chosen, and what is refused."""

import pytest

from ltx_jax.data.buckets import check_buckets, choose_bucket, fit, temporal_subsample
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
