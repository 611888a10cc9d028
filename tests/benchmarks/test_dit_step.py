"""benchmarks/dit_step.py runs to its end here; beside PyTorch, where that is installed, on the same weights."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "dit_step.py"


@pytest.mark.slow
def test_the_toy_blocks_run_and_agree_with_pytorch_where_installed():
    command = [sys.executable, str(SCRIPT), "--size=toy", "--layers=1", "--batch=1", "--repeats=1", "--json"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    forward, both = json.loads(done.stdout.splitlines()[-1])
    assert (forward["pass"], both["pass"]) == ("forward", "forward+backward")
    assert all(row["ms"] > 0 and row["memory_gb"] > 0 for row in (forward, both))
    flops = [row["tflops"] * row["ms"] for row in (forward, both)]
    assert flops[1] / flops[0] == pytest.approx(3, rel=0.01)  # what remat computes twice is not counted
    if importlib.util.find_spec("diffusers") is not None:
        assert forward["difference"] < 1e-5 and both["ratio"] > 0
