"""Random parameters without compiling an initialiser, which would take longer than the tests themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.models.layers import abstract_params


@pytest.fixture
def initialise():
    """initialise(module, *inputs) -> float32 parameters, normal with the variance of the usual initialisers."""

    def build(module, *inputs):
        shapes, _ = abstract_params(module, *inputs)
        rng = np.random.default_rng(0)
        draw = lambda s: jnp.asarray(rng.normal(size=s.shape) / np.sqrt(np.prod(s.shape[:-1])), jnp.float32)
        return jax.tree.map(draw, shapes)

    return build
