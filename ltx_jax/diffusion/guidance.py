"""Guidance: how the predictions of several network passes become one (spec sampling.md section 6).

A pass is one way to run the network: "cond" (positive text), "uncond" (negative text), "perturbed" (self-attention
skipped in some blocks), "isolated" (audio-video attention skipped). Guidance acts on x0 predictions, in float32.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require
from ltx_jax.streams import masked_std

Array = jax.Array

PASSES = ("cond", "uncond", "perturbed", "isolated")  # their order along the batch axis (6.3)
ATTENTIONS = ("video_self", "audio_self", "audio_to_video", "video_to_audio")  # rows of a keep array (6.3)


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Guidance of one modality (6.1); the defaults are neutral and ask for no further pass.

    stg_blocks: blocks whose self-attention the perturbed pass skips, None for all.
    """

    cfg_scale: float = 1.0
    stg_scale: float = 0.0
    stg_blocks: tuple[int, ...] | None = None
    modality_scale: float = 1.0
    rescale_scale: float = 0.0

    def __post_init__(self):
        require(self.rescale_scale >= 0, f"The guidance rescale must not be negative, not {self.rescale_scale}.")

    def needs(self, name: str) -> bool:
        """Whether these parameters ask for the pass `name`."""
        if name == "uncond":
            return not math.isclose(self.cfg_scale, 1.0)
        if name == "perturbed":
            return not math.isclose(self.stg_scale, 0.0)
        return name == "cond" or not math.isclose(self.modality_scale, 1.0)


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


def cfg_star(cond: Array, uncond: Array, scale: Array | float) -> Array:
    """Guidance away from the part of `uncond` that lies along `cond` (CFG*, 6.6), per sample."""
    share = _inner(cond, uncond) / (_inner(uncond, uncond) + 1e-8)
    return cond + (scale - 1) * (cond - share * uncond)


def stg(cond: Array, perturbed: Array, scale: Array | float) -> Array:
    """Spatio-temporal skip guidance cond + scale (cond - perturbed) (6.6)."""
    return cond + scale * (cond - perturbed)


def apg(cond: Array, uncond: Array, scale: Array | float, eta: float = 1.0, norm_threshold: float = 0.0) -> Array:
    """Adaptive projected guidance (6.6): `projected` of cond - uncond, weighted by scale - 1."""
    return cond + (scale - 1) * projected(cond - uncond, cond, eta, norm_threshold)


def projected(difference: Array, cond: Array, eta: float, norm_threshold: float) -> Array:
    """A guidance direction (B, T, C), cut to a norm and with its part along `cond` scaled by eta, per sample (6.6).

    Stateful guidance with momentum m passes the running average m * average + difference instead of the difference.
    """
    if norm_threshold > 0:
        norm = jnp.sqrt(_inner(difference, difference))
        difference = difference * jnp.minimum(1.0, norm_threshold / norm)
    along = _inner(difference, cond) / (_inner(cond, cond) + 1e-8) * cond
    return eta * along + (difference - along)


def _inner(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=(1, 2), keepdims=True)  # (B, 1, 1)


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
    mask: Array | None = None,
    whole_batch: bool = False,
) -> Array:
    """The guided x0 (B, T, C) of one modality from its predictions by pass name (6.2).

    Predictions that were not made are left out of the sum. The rescale compares standard deviations per sample, or
    over the whole batch as the reference does with `whole_batch` (which couples the samples of a batch). mask
    (B, T, 1) bool: the real tokens, others do not enter the deviations.
    """
    weights = {"uncond": cfg_scale - 1, "perturbed": stg_scale, "isolated": modality_scale - 1}
    cond = predictions["cond"].astype(jnp.float32)
    guided = cond
    for name, weight in weights.items():
        if name in predictions:
            guided = guided + weight * (cond - predictions[name].astype(jnp.float32))
    mask = jnp.ones((1, 1, 1), bool) if mask is None else mask
    axes = (0, 1, 2) if whole_batch else (1, 2)
    ratio = masked_std(cond, mask, axes) / masked_std(guided, mask, axes)  # () or (B,)
    ratio = jnp.reshape(ratio, (-1, 1, 1))
    # At rescale 0 the factor is left out rather than multiplied by 0: the ratio may be infinite.
    factor = jnp.where(jnp.asarray(rescale_scale) == 0, 1.0, rescale_scale * ratio + 1 - rescale_scale)
    return (guided * factor).astype(predictions["cond"].dtype)
