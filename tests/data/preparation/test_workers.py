"""Jobs keep their order over processes, and a job that kills its process is the only one lost."""

import os
import time

import pytest

from ltx_jax.data.preparation.workers import ordered_map


def work(job):
    if job == 5:
        os._exit(1)
    time.sleep(0.02 * (job % 3))
    return job * job


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_costs_one_job(workers):
    results = list(ordered_map(work, range(9), workers, lambda job: f"crashed {job}"))
    assert results == [0, 1, 4, 9, 16, "crashed 5", 36, 49, 64]


def test_without_workers_jobs_run_here_when_asked_for():
    results = ordered_map(lambda job: -job, iter([1, 2]), 0, str)
    assert next(results) == -1 and list(results) == [-2]
