"""What the tests of real TPU compiles share: slices without hardware, and which pairs of chip and variant are quick."""

import pytest

from ltx_jax.errors import UserError
from ltx_jax.planning.topology import topology

CHIPS = ["v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]


def devices_of(chip):
    """Devices of a slice; skips the test where the compiler is not installed."""
    try:
        return topology(chip).devices
    except UserError as error:
        pytest.skip(str(error))


def pairs(quick, variants):
    """Every chip with every variant as test parameters; those that are not in `quick` are slow."""
    rest = [(chip, variant) for chip in CHIPS for variant in variants if (chip, variant) not in quick]
    return [*quick, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in rest)]
