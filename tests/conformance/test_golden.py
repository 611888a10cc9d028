"""Every recorded case in tests/golden passes through the same checker that `ltx_jax.tools.check` runs."""

from pathlib import Path

import pytest

from ltx_jax.conformance.check import check_file

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(GOLDEN.rglob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(GOLDEN).with_suffix("")) for f in FILES])
def test_golden_case_passes(path):
    kind, results = check_file(str(path))
    assert results
    failed = [f"{kind} {r.name}: error {r.error:.3g}, {r.problem or ''}" for r in results if not r.passed]
    assert not failed, failed
