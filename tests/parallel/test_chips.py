"""Devices are known by the names that JAX gives them."""

import jax
import pytest

from ltx_jax.parallel.chips import CHIPS, chip_of, peak_flops
from ltx_jax.parallel.mesh import MeshConfig, make_mesh


@pytest.mark.parametrize(
    "kind, name",
    [
        ("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v5p", "v5p"), ("TPU v6 lite", "v6e"), ("TPU7x", "tpu7x"),
        ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)  # fmt: skip
def test_kinds(kind, name):
    assert chip_of(kind) is CHIPS[name]


def test_a_processor_has_no_known_peak():
    assert chip_of("cpu") is None
    assert peak_flops(make_mesh(MeshConfig(), jax.devices()[:1])) == 0
