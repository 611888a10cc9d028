"""Adversarial terms of the autoencoders: one loss for two groups of parameters, and the weight between its parts.

A discriminator is a part like any other, trained along, with an optimizer of its own: of `adversarial_terms` its
parameters get the gradient of the discriminator's term alone, and the generator's output that of its own.
Sources: hinge loss (Lim & Ye, arXiv:1705.02894), adaptive weight (Esser et al., VQGAN, arXiv:2012.09841, equation 7),
feature matching (Larsen et al., arXiv:1512.09300; HiFi-GAN, arXiv:2010.05646).
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require
from ltx_jax.models.audio_vae.discriminator import WaveDiscriminator
from ltx_jax.models.layers import abstract_params, init_params
from ltx_jax.models.video_vae.discriminator import VideoDiscriminator
from ltx_jax.rng import named_key
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig

Array = jax.Array
# (discriminator's parameters, samples) -> for every sub-network its features, then its logits
Judge = Callable[[Any, Array], Sequence[Sequence[Array]]]

DISCRIMINATORS = ("video_discriminator", "wave_discriminator")  # parts that no model keeps
FIGURES = ("adversarial", "discriminator", "adversarial_weight", "features")
MOST = 1e4  # an adaptive weight's bound, as in VQGAN


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """weight: of the generator's term beside the reconstruction, relative to gradients of equal size; 0: no adversary.

    start: completed steps of reconstruction alone before it. feature_weight: of feature matching. base: width of the
    discriminator's first layer. optimizer: the discriminator's own; its schedule is as long as the stage.
    """

    weight: float = 0.0
    start: int = 0
    feature_weight: float = 2.0
    base: int = 16
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=2e-4, b1=0.5, b2=0.9, weight_decay=0.0, schedule=ScheduleConfig("constant")
    )

    def __post_init__(self):
        for name in ("weight", "start", "feature_weight"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, not {getattr(self, name)}.")
        require(self.base >= 1, f"base, a discriminator's width, must be at least 1, not {self.base}.")


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator to be trained along: the part's name, its network, and an input of its kind."""

    part: str
    network: nn.Module
    example: Any

    def add_to(self, shapes: Any, axes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Shapes and logical axes of parameters by part, with the discriminator's."""
        shape, names = abstract_params(self.network, self.example)
        return {**shapes, self.part: shape}, {**axes, self.part: names}

    def initial(self, seed: int) -> dict[str, Any]:
        """Random parameters by part; to be traced by `jit`."""
        return {self.part: init_params(self.network, named_key(seed, f"init.{self.part}"), self.example)}


def make_adversary(stage: str, config: AdversarialConfig, dtype: Any, platform: str) -> Adversary | None:
    """The discriminator of `stage`, None where the config has no weight for one."""
    if not config.weight:
        return None
    if stage == "video_vae":
        form = "taps" if platform == "cpu" else "native"
        network = VideoDiscriminator(config.base, conv_impl=form, dtype=dtype)
        return Adversary("video_discriminator", network, np.zeros((1, 5, 32, 32, 3), np.float32))
    network = WaveDiscriminator(config.base, dtype=dtype)
    return Adversary("wave_discriminator", network, np.zeros((1, 2, 4096), np.float32))


def adversarial_terms(
    judge: Judge, params: Any, output: Array, truth: Array, reconstruction: Callable[[Array], Array], step: Array,
    config: AdversarialConfig,
) -> tuple[Array, dict[str, Array]]:  # fmt: skip
    """What an adversary adds to the loss, () float32, and its figures.

    judge: must treat every sample alone. output: the generator's, truth: what it should be, (B, ...).
    reconstruction(output): the loss that it competes with, for the adaptive weight. Before config.start neither group
    sees anything of it, nothing of it is computed, and the figures are NaN, which the log leaves out.
    """

    def begun(params: Any, output: Array) -> tuple[Array, Array, Any, Array]:
        return _game(judge, params, output, truth, reconstruction, config)

    def before(params: Any, output: Array) -> tuple[Array, Array, Any, Array]:
        nothing = jax.tree.map(jnp.zeros_like, params)
        return jnp.float32(0), jnp.full(len(FIGURES), jnp.nan), nothing, jnp.zeros_like(output)

    fixed = jax.lax.stop_gradient((params, output))
    loss, figures, of_params, of_output = jax.lax.cond(step >= config.start, begun, before, *fixed)
    loss += _sloping(of_params, params) + _sloping(of_output, output)
    return loss, dict(zip(FIGURES, figures, strict=True))


def _game(
    judge: Judge, params: Any, output: Array, truth: Array, reconstruction: Callable[[Array], Array],
    config: AdversarialConfig,
) -> tuple[Array, Array, Any, Array]:  # fmt: skip
    """The loss, the figures, and the gradients of the discriminator's parameters and of the generator's output.

    One pass through the discriminator serves all; several backward from it each ask for what one group needs.
    """
    both = lambda x: jnp.stack([truth, x], axis=1).reshape(-1, *x.shape[1:])  # side by side: none changes its device
    judged, back = jax.vjp(lambda params, x: judge(params, both(x)), params, output)

    discriminator, slope = jax.value_and_grad(_hinge)(judged)
    of_params, _ = back(slope)

    generator, slope = jax.value_and_grad(_likeness)(judged)
    _, of_output = back(slope)
    weight = config.weight * adaptive_weight(jax.grad(reconstruction)(output), of_output)
    of_output, loss, matching = weight * of_output, weight * generator + discriminator, jnp.float32(0)

    if any(len(found) > 1 for found in judged):
        matching, slope = jax.value_and_grad(_matching)(judged)
        _, of_features = back(slope)
        share = config.weight * config.feature_weight
        of_output, loss = of_output + share * of_features, loss + share * matching
    return loss, jnp.stack([generator, discriminator, weight, matching]), of_params, of_output


def adaptive_weight(reconstruction: Array, generator: Array) -> Array:
    """|gradient of the reconstruction| / |gradient of the generator's term|, () float32; arguments: both gradients.

    They are taken at the output, not at the last layer's kernel as VQGAN does: the layer scales them alike, and no
    second pass through it is needed.
    """
    size = lambda gradient: jnp.linalg.norm(jnp.ravel(gradient))
    return jnp.clip(size(reconstruction) / (size(generator) + 1e-8), 0, MOST)


def _hinge(judged: Sequence[Sequence[Array]]) -> Array:
    """What the discriminator minimises: true samples above 1, made ones below -1."""
    halves = [_halves(found[-1]) for found in judged]
    return _mean(0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + made))) for real, made in halves)


def _likeness(judged: Sequence[Sequence[Array]]) -> Array:
    """What the generator minimises."""
    return _mean(-jnp.mean(_halves(found[-1])[1]) for found in judged)


def _matching(judged: Sequence[Sequence[Array]]) -> Array:
    """L1 between the features of made samples and those of the true ones."""
    halves = [_halves(features) for found in judged for features in found[:-1]]
    return _mean(jnp.mean(jnp.abs(made - jax.lax.stop_gradient(real))) for real, made in halves)


def _halves(judged: Array) -> tuple[Array, Array]:
    """The true samples and the made ones, of what was judged side by side."""
    return judged[::2], judged[1::2]


def _sloping(gradient: Any, at: Any) -> Array:
    """Zero, with `gradient` at the values `at`, trees of equal structure."""
    product = lambda g, x: jnp.sum(g * (x - jax.lax.stop_gradient(x)))
    return jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(product, gradient, at))))


def _mean(terms: Iterable[Array]) -> Array:
    return jnp.mean(jnp.stack(list(terms)))
