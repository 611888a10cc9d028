"""Step time, MFU and goodput add up to the wall time."""

import pytest

from ltx_jax.training.speed import Speed


def test_time_goes_to_steps_or_is_lost():
    clock = [0.0]
    speed = Speed(flops=50.0, peak=100.0, now=lambda: clock[0])
    with speed.losing("compile"):
        clock[0] += 10
    speed.begin(100)
    clock[0] += 8
    with speed.losing("checkpoint"):
        clock[0] += 2
    first = speed.report(104)
    assert first["step_s"] == 2 and first["mfu"] == 0.25 and first["goodput"] == pytest.approx(8 / 20)
    clock[0] += 20
    second = speed.report(114, refused=5)
    assert second["step_s"] == 2 and second["goodput"] == pytest.approx(18 / 40)
    assert second["lost_compile_s"] == 10 and second["lost_checkpoint_s"] == 2


def test_without_a_known_peak_there_is_no_mfu():
    assert "mfu" not in Speed(flops=5.0).report(1)
