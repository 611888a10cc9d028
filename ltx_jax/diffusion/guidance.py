"""Guidance: how the predictions of several network passes become one (spec sampling.md section 6).

A pass is one way to run the network: "cond" (positive text), "uncond" (negative text), "perturbed" (self-attention
skipped in some blocks), "isolated" (audio-video attention skipped). Guidance acts on x0 predictions, in float32.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require
from ltx_jax.streams import masked_std

Array = jax.Array

PASSES = ("cond", "uncond", "perturbed", "isolated")  # their order along the batch axis (6.3)
ATTENTIONS = ("video_self", "audio_self", "audio_to_video", "video_to_audio")  # rows of a keep array (6.3)


Rule = Literal["cfg", "cfg_star", "apg", "apg_stateful"]
RULES: tuple[Rule, ...] = ("cfg", "cfg_star", "apg", "apg_stateful")  # how the text guides (6.2, 6.6)


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Guidance of one modality (6.1); the defaults are neutral and ask for no further pass.

    stg_blocks: blocks whose self-attention the perturbed pass skips, None for all. skip_step: after each step that is
    computed so many reuse its prediction. rule: how the text guides; eta, norm_threshold and momentum belong to the
    projected rules "apg" and "apg_stateful", of which the latter is neutral at a cfg_scale of 0. cfg_every: how many
    steps the difference between the texts guides that one of them finds; 2 saves every other unconditional pass.
    """

    cfg_scale: float = 1.0
    stg_scale: float = 0.0
    stg_blocks: tuple[int, ...] | None = None
    modality_scale: float = 1.0
    rescale_scale: float = 0.0
    skip_step: int = 0
    rule: Rule = "cfg"
    eta: float = 1.0
    norm_threshold: float = 0.0
    momentum: float = 0.0
    cfg_every: int = 1

    def __post_init__(self):
        require(self.cfg_every >= 1, f"Guidance is computed every 1 or more steps, not every {self.cfg_every}.")
        require(self.rescale_scale >= 0, f"The guidance rescale must not be negative, not {self.rescale_scale}.")
        require(self.skip_step >= 0, f"The steps to skip must not be negative, not {self.skip_step}.")
        require(self.rule in RULES, f"There is no guidance rule '{self.rule}'; choose one of {', '.join(RULES)}.")

    def needs(self, name: str) -> bool:
        """Whether these parameters ask for the pass `name`."""
        if name == "uncond":
            return not math.isclose(self.cfg_scale, 0.0 if self.rule == "apg_stateful" else 1.0)
        if name == "perturbed":
            return not math.isclose(self.stg_scale, 0.0)
        return name == "cond" or not math.isclose(self.modality_scale, 1.0)

    def at(self, sigma: float) -> "Guidance":
        """The guidance at a noise level: this one at all."""
        return self


@dataclasses.dataclass(frozen=True)
class GuidanceTable:
    """Guidance that depends on the noise level (6.5): rows of (upper bound, guidance), in any order."""

    rows: tuple[tuple[float, Guidance], ...]

    def __post_init__(self):
        require(len(self.rows) > 0, "A table of guidance needs at least one row.")
        require(len({g.rule for _, g in self.rows}) == 1, "All rows of a table of guidance must have the same rule.")

    def at(self, sigma: float) -> Guidance:
        """The guidance of the smallest upper bound that is not below `sigma`, or of the largest one."""
        return self.rows[bin_of(sigma, [bound for bound, _ in self.rows])][1]


def passes(video: Guidance | None, audio: Guidance | None, force: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The passes that either present modality needs, in batch order, `force`d ones included (6.3)."""
    present = [g for g in (video, audio) if g is not None]
    return tuple(p for p in PASSES if p == "cond" or p in force or any(g.needs(p) for g in present))


def keep_array(
    names: tuple[str, ...], video: Guidance | None, audio: Guidance | None, blocks: int
) -> np.ndarray | None:
    """Which attentions run in each block of each pass: float32 (4, blocks, len(names)), 1 keep and 0 skip (6.3).

    None where no pass skips anything. Raises UserError for a block that the transformer lacks.
    """
    if all(name in ("cond", "uncond") for name in names):
        return None
    require(blocks > 0, "Guidance by skipped attention needs the number of the transformer's blocks.")
    keep = np.ones((len(ATTENTIONS), blocks, len(names)), np.float32)
    for column, name in enumerate(names):
        if name == "isolated":
            keep[2:, :, column] = 0
        if name == "perturbed":
            for attention, guidance in enumerate((video, audio)):
                if guidance is not None and guidance.needs("perturbed"):
                    keep[attention, _skipped(guidance, blocks), column] = 0
    return keep


def _skipped(guidance: Guidance, blocks: int) -> list[int]:
    if guidance.stg_blocks is None:
        return list(range(blocks))
    for block in guidance.stg_blocks:
        require(0 <= block < blocks, f"stg_blocks names block {block}, but the transformer has 0 to {blocks - 1}.")
    return list(guidance.stg_blocks)


def cfg(cond: Array, uncond: Array, scale: Array | float) -> Array:
    """Classifier-free guidance cond + (scale - 1)(cond - uncond) (6.6)."""
    return cond + (scale - 1) * (cond - uncond)


def cfg_star(cond: Array, uncond: Array, scale: Array | float, mask: Array | None = None) -> Array:
    """Guidance away from the part of `uncond` that lies along `cond` (CFG*, 6.6), per sample.

    mask (B, T, 1) bool, here and below: the real tokens, others count for nothing.
    """
    share = _inner(cond, uncond, mask) / (_inner(uncond, uncond, mask) + 1e-8)
    return cond + (scale - 1) * (cond - share * uncond)


def stg(cond: Array, perturbed: Array, scale: Array | float) -> Array:
    """Spatio-temporal skip guidance cond + scale (cond - perturbed) (6.6)."""
    return cond + scale * (cond - perturbed)


def apg(
    cond: Array,
    uncond: Array,
    scale: Array | float,
    eta: Array | float = 1.0,
    norm_threshold: Array | float = 0.0,
    mask: Array | None = None,
) -> Array:
    """Adaptive projected guidance (6.6): `projected` of cond - uncond, weighted by scale - 1."""
    return cond + (scale - 1) * projected(cond - uncond, cond, eta, norm_threshold, mask)


def projected(
    difference: Array,
    cond: Array,
    eta: Array | float,
    norm_threshold: Array | float,
    mask: Array | None = None,
) -> Array:
    """A guidance direction (B, T, C), cut to a norm, its part along `cond` scaled by eta, per sample (6.6).

    A norm_threshold of 0 cuts nothing. Stateful guidance passes `averaged` differences, and weights the result by its
    scale, not by scale - 1.
    """
    norm = jnp.sqrt(_inner(difference, difference, mask))
    cut = jnp.where(jnp.asarray(norm_threshold) > 0, jnp.minimum(1.0, norm_threshold / norm), 1.0)
    difference = difference * cut
    along = _inner(difference, cond, mask) / (_inner(cond, cond, mask) + 1e-8) * cond
    return eta * along + (difference - along)


def averaged(difference: Array, before: Array, momentum: Array | float, first: Array | bool) -> Array:
    """The running sum momentum * before + difference of guidance directions; the difference alone at first (6.6)."""
    return jnp.where(jnp.asarray(first) | (jnp.asarray(momentum) == 0), difference, momentum * before + difference)


def _inner(a: Array, b: Array, mask: Array | None) -> Array:
    product = a * b if mask is None else jnp.where(mask, a * b, 0)
    return jnp.sum(product, axis=(1, 2), keepdims=True)  # (B, 1, 1)


def skips(step: int, skip_step: int) -> bool:
    """Whether a modality reuses its last guided x0 at this step instead of a new one (6.4)."""
    return skip_step != 0 and step % (skip_step + 1) != 0


def bin_of(sigma: float, bounds: Sequence[float]) -> int:
    """Index of the smallest of the upper bounds that is >= sigma, or of the largest when none is (6.5)."""
    above = [i for i, bound in enumerate(bounds) if bound >= sigma]
    return min(above, key=lambda i: bounds[i]) if above else max(range(len(bounds)), key=lambda i: bounds[i])


def multimodal(
    predictions: dict[str, Array],
    cfg_scale: Array | float = 1.0,
    stg_scale: Array | float = 0.0,
    modality_scale: Array | float = 1.0,
    rescale_scale: Array | float = 0.0,
    *,
    text: Array | None = None,
    mask: Array | None = None,
    whole_batch: bool = False,
) -> Array:
    """The guided x0 (B, T, C) of one modality from its predictions by pass name (6.2).

    Predictions that were not made are left out of the sum. text: the prediction guided by the text, where that is by
    another rule than CFG. The rescale compares standard deviations per sample, or over the whole batch as the
    reference does with `whole_batch` (which couples the samples of a batch). mask (B, T, 1) bool: the real tokens,
    others do not enter the deviations.
    """
    cond = predictions["cond"].astype(jnp.float32)
    guided = cond if text is None else text
    weights = {"uncond": cfg_scale - 1, "perturbed": stg_scale, "isolated": modality_scale - 1}
    for name, weight in weights.items():
        if name in predictions and not (name == "uncond" and text is not None):
            guided = guided + weight * (cond - predictions[name].astype(jnp.float32))
    mask = jnp.ones((1, 1, 1), bool) if mask is None else mask
    axes = (0, 1, 2) if whole_batch else (1, 2)
    ratio = masked_std(cond, mask, axes) / masked_std(guided, mask, axes)  # () or (B,)
    ratio = jnp.reshape(ratio, (-1, 1, 1))
    # At rescale 0 the factor is left out rather than multiplied by 0: the ratio may be infinite.
    factor = jnp.where(jnp.asarray(rescale_scale) == 0, 1.0, rescale_scale * ratio + 1 - rescale_scale)
    return (guided * factor).astype(predictions["cond"].dtype)
