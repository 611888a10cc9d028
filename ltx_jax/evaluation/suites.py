"""The suites that a model can be measured on: a row each, which a person names on the command line."""

from collections.abc import Callable
from typing import Any

from ltx_jax.evaluation.toy import Measured, evaluate_toy
from ltx_jax.pipelines.sampler import Sampler

# (sampler, number of prompts, seed, options) -> what was measured
Suite = Callable[..., Measured]


def _autoencoders(sampler: Sampler, count: int, seed: int, **_: Any) -> Measured:
    return evaluate_toy(sampler, count, seed, kind="autoencoders")


def _truth(sampler: Sampler, count: int, seed: int, **_: Any) -> Measured:
    return evaluate_toy(sampler, count, seed, kind="truth")


SUITES: dict[str, Suite] = {
    "toy": evaluate_toy,  # the model's clips of the toy world's prompts
    "ceiling": _autoencoders,  # true clips through the model's autoencoders: what its transformer could reach at best
    "truth": _truth,  # true clips: what the instruments make of them
}
