"""Random parameters for tests, drawn by NumPy: the initial values of a network take seconds to compile."""

import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from ltx_jax.models.layers import init_params


def drawn(shapes: Any, seed: int = 0) -> Any:
    """Arrays of the shapes of parameters: kernels as initial values are, all else small."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        kernel = path[-1].key == "kernel"
        inputs = math.prod(x.shape[:-1]) if kernel and len(x.shape) > 3 else math.prod(x.shape[-2:-1])
        return ((inputs**-0.5 if kernel else 0.1) * rng.normal(size=x.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def drawn_params(module: nn.Module, *inputs: Any, seed: int = 0) -> Any:
    """Parameters of a module that takes these inputs."""
    return drawn(jax.eval_shape(lambda: init_params(module, jax.random.key(0), *inputs)), seed)
