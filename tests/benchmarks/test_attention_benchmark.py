"""benchmarks/attention.py runs here, and reads what the TPU compiler says of a chip that is not here."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "attention.py"


def run(*flags):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, str(SCRIPT), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_table_of_a_cpu():
    done = run("--tokens=65", "--keys=40", "--widths=16", "--repeats=1", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["implementation"] for row in rows} >= {"ours: looped", "ours: blocked", "ours: reference", "jax.nn xla"}
    assert {row["direction"] for row in rows} == {"forward", "backward"}
    assert all(row["error"] < 1e-3 and row["tflops"] > 0 and row["share"] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra `plan`)")
def test_rows_of_a_tpu():
    done = run("--aot=v6e", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["variant"] for row in rows} == {
        *(f"tpu {part} {n}" for n in (64, 128) for part in ("forward", "backward")),
        *(f"tpu neighbourhood {part} 64" for part in ("forward", "backward")),
    }
    assert all(row["vmem_bytes"] > 0 and row["bundles"] > 100 and row["tile"]["queries"] for row in rows)


@pytest.mark.parametrize("flags", [("--aot=v9z",), ("--tokens=many",), ("--autotune",)])
def test_mistakes_are_sentences(flags):
    done = run(*flags)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
