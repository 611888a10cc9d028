"""Guidance: how the predictions of several network passes become one (spec sampling.md section 6).

A pass is one way to run the network: "cond" (positive text), "uncond" (negative text), "perturbed" (self-attention
skipped in some blocks), "isolated" (audio-video attention skipped). Guidance acts on x0 predictions, in float32.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.config import require
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
    names: tuple[str, ...], video: Guidance | None, audio: Guidance | None, blocks: int, batch: int
) -> np.ndarray:
    """Which attentions run: float32 (4, blocks, len(names) * batch), 1 keep and 0 skip, rows pass-major (6.3)."""
    keep = np.ones((len(ATTENTIONS), blocks, len(names), batch), np.float32)
    for row, name in enumerate(names):
        if name == "isolated":
            keep[2:, :, row] = 0
        if name == "perturbed":
            for attention, guidance in enumerate((video, audio)):
                if guidance is not None and guidance.needs("perturbed"):
                    skipped = guidance.stg_blocks
                    keep[attention, slice(None) if skipped is None else list(skipped), row] = 0
    return keep.reshape(len(ATTENTIONS), blocks, -1)


def cfg(cond: Array, uncond: Array, scale: Array | float) -> Array:
    """Classifier-free guidance cond + (scale - 1)(cond - uncond) (6.6)."""
    return cond + (scale - 1) * (cond - uncond)


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
