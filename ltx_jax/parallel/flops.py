"""FLOPs of a traced function, counted from its jaxpr: matrix products and convolutions, 2 per multiply-add.

Loop bodies are counted as often as they run; a `while` of unknown length runs `trips` times. A kernel counts what its
cost estimate says, else its body once per grid point; the body of a shard_map counts once per device. What is
pointwise is left out: memory bounds it, not arithmetic.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


def function_flops(function: Any, *args: Any, trips: int = 1) -> float:
    """FLOPs of function(*args) over all devices; args may be ShapeDtypeStructs. Traced under the mesh that is set."""
    return jaxpr_flops(jax.make_jaxpr(function)(*args), trips)


def jaxpr_flops(jaxpr: Any, trips: int = 1) -> float:
    """FLOPs of one run of a Jaxpr or ClosedJaxpr over all devices."""
    return float(sum(_equation(equation, trips) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns))


def _equation(equation: Any, trips: int) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "pallas_call" and params["cost_estimate"] is not None:
        return float(params["cost_estimate"].flops)
    inner = [jaxpr_flops(jaxpr, trips) for jaxpr in _inner(params)]
    if not inner:
        return 0.0
    if name == "cond":
        return max(inner)
    times = {"scan": lambda: params["length"], "while": lambda: trips, "shard_map": lambda: params["mesh"].size}
    grid = {"pallas_call": lambda: math.prod(params["grid_mapping"].grid)}
    return sum(inner) * (times | grid).get(name, lambda: 1)()


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(getattr(item, "jaxpr", item), "eqns"):
                yield item


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)


def _convolution(equation: Any) -> float:
    params, (x, kernel), out = equation.params, (v.aval.shape for v in equation.invars), equation.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    pairs = 1
    for i, (a, k, o) in enumerate(zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)):
        pairs *= valid_pairs(
            x[a], kernel[k], out[o], params["window_strides"][i], params["padding"][i][0],
            params["lhs_dilation"][i], params["rhs_dilation"][i],
        )  # fmt: skip
    batch = x[numbers.lhs_spec[0]] / params["batch_group_count"]
    return 2.0 * batch * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]] * pairs


def valid_pairs(
    size: int, window: int, out: int, stride: int = 1, low: int = 0, dilation: int = 1, window_dilation: int = 1
) -> int:
    """Pairs (output position, window position) of one axis that read an element, not padding or the gaps of dilation.

    size: of the input before its dilation. low: padding before it.
    """
    pairs = 0
    positions = np.arange(out) * stride - low
    for tap in range(window):
        reads = positions + tap * window_dilation
        inside = (reads >= 0) & (reads <= (size - 1) * dilation) & (reads % dilation == 0)
        pairs += int(np.count_nonzero(inside))
    return pairs
