"""The first 30 losses and gradient norms of the toy's transformer are those that were recorded."""

import importlib.util
import json
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("golden_curve", Path(__file__).with_name("golden_curve.py"))
assert _spec is not None and _spec.loader is not None
golden_curve = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden_curve)


@pytest.mark.slow
def test_the_first_steps_are_the_recorded_ones(tmp_path):
    recorded = json.loads(golden_curve.PATH.read_text())["curve"]
    curve = golden_curve.first_steps(tmp_path)
    assert len(recorded) == len(curve) == 30
    for step, (ours, theirs) in enumerate(zip(curve, recorded, strict=True)):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4), step
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3), step
