"""Batches by step: the same however hosts and workers divide them, and exact after a resume."""

import json

import numpy as np
import pytest

from ltx_jax.data.config import DataConfig
from ltx_jax.data.pipeline import Batches, item_at
from ltx_jax.data.raw.item import collate
from ltx_jax.data.raw.source import open_source
from ltx_jax.errors import UserError


def batches(**options):
    config = DataConfig(size=7, frames=3, height=16, width=16, sample_rate=4000)
    return Batches(open_source(config), 3, 4, collate, **options)


def assert_equal(a, b):
    assert a["caption"] == b["caption"]
    for name in ("video", "audio", "has_audio"):
        np.testing.assert_array_equal(a[name], b[name])


def test_every_epoch_shows_every_clip_once_in_another_order():
    orders = [[item_at(7, 0, e * 7 + i)[0] for i in range(7)] for e in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(7)) and orders[0] != orders[1]


def test_hosts_share_one_global_batch():
    whole, halves = batches().at(2), [batches(process_index=i, process_count=2).at(2) for i in range(2)]
    np.testing.assert_array_equal(whole["video"], np.concatenate([h["video"] for h in halves]))


def test_workers_change_nothing():
    reader = batches(workers=2)
    try:
        for step in range(3):
            assert_equal(next(reader), batches().at(step))
    finally:
        reader.close()


def test_a_resume_goes_on_where_it_stopped():
    reader, other = batches(), batches()
    next(reader)
    other.set_state(json.loads(json.dumps(reader.get_state())))
    assert_equal(next(other), next(reader))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="does not divide"):
        batches(process_count=3)
    with pytest.raises(UserError, match="changed"):
        batches().set_state({"step": 1, "data": "other"})
