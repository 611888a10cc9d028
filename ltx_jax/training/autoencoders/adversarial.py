"""Adversarial terms of the autoencoders: one loss for two groups of parameters, and the weight between its parts.

A discriminator is a part like any other, trained along: `adversarial_terms` stops the gradient of the generator's term
at the discriminator's parameters and that of the discriminator's term at the generator's output, so that one backward
pass serves both groups, and each may have an optimizer of its own.
Sources: hinge loss (Lim & Ye, arXiv:1705.02894), adaptive weight (Esser et al., VQGAN, arXiv:2012.09841, equation 7),
feature matching (Larsen et al., arXiv:1512.09300; HiFi-GAN, arXiv:2010.05646).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ltx_jax.errors import require

Array = jax.Array
# (discriminator's parameters, samples) -> for every sub-network its features, then its logits
Judge = Callable[[Any, Array], Sequence[Sequence[Array]]]

MOST = 1e4  # an adaptive weight's bound, as in VQGAN


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """weight: of the generator's term beside the reconstruction, relative to gradients of equal size; 0: no adversary.

    start: completed steps of reconstruction alone before it. feature_weight: of feature matching.
    """

    weight: float = 0.0
    start: int = 0
    feature_weight: float = 2.0

    def __post_init__(self):
        for name in ("weight", "start", "feature_weight"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, not {getattr(self, name)}.")


def adversarial_terms(
    judge: Judge, params: Any, output: Array, truth: Array, reconstruction: Callable[[Array], Array], step: Array,
    config: AdversarialConfig,
) -> tuple[Array, dict[str, Array]]:  # fmt: skip
    """What an adversary adds to the loss, () float32, and its figures.

    output: the generator's, truth: what it should be, (B, ...). reconstruction(output): the loss that it competes with,
    for the adaptive weight. Before config.start both groups see nothing of it.
    """
    fixed = jax.lax.stop_gradient(params)
    real, fake = judge(params, truth), judge(params, jax.lax.stop_gradient(output))
    discriminator = _mean(0.5 * (jnp.mean(jax.nn.relu(1 - r[-1])) + jnp.mean(jax.nn.relu(1 + f[-1])))
                          for r, f in zip(real, fake, strict=True))  # fmt: skip
    seen = judge(fixed, output)
    generator = _generator_loss(seen)
    matching = _mean(jnp.mean(jnp.abs(a - jax.lax.stop_gradient(b)))
                     for s, r in zip(seen, real, strict=True) for a, b in zip(s[:-1], r[:-1], strict=True))  # fmt: skip
    competing = lambda x: _generator_loss(judge(fixed, x))
    weight = config.weight * adaptive_weight(reconstruction, competing, output)
    on = (step >= config.start).astype(jnp.float32)
    loss = on * (weight * generator + config.weight * config.feature_weight * matching + discriminator)
    return loss, {
        "adversarial": generator,
        "discriminator": discriminator,
        "adversarial_weight": weight,
        "features": matching,
    }


def adaptive_weight(
    reconstruction: Callable[[Array], Array], generator: Callable[[Array], Array], output: Array
) -> Array:
    """|gradient of the reconstruction| / |gradient of the generator's term|, () float32, without a gradient itself.

    Both are taken at the output, not at the last layer's kernel as VQGAN does: the layer scales them alike, and no
    second pass through it is needed.
    """
    fixed = jax.lax.stop_gradient(output)
    size = lambda loss: jnp.linalg.norm(jnp.ravel(jax.grad(loss)(fixed)))
    ratio = size(reconstruction) / (size(generator) + 1e-8)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0, MOST))


def _generator_loss(judged: Sequence[Sequence[Array]]) -> Array:
    return _mean(-jnp.mean(found[-1]) for found in judged)


def _mean(terms: Any) -> Array:
    terms = list(terms)
    return sum(terms, jnp.float32(0)) / max(1, len(terms))
