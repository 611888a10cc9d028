"""Folders of encoded clips, whoever made them."""

from pathlib import Path

from ltx_jax.data.buckets import Shape
from ltx_jax.data.config import DataConfig
from ltx_jax.data.encoded.mixture import Mixture, open_mixture
from ltx_jax.data.encoded.precomputed import PrecomputedClips, precomputed_root
from ltx_jax.data.encoded.prepared import Clips, PreparedClips, is_prepared


def open_clips(config: DataConfig, scale: Shape, audio_width: int) -> Mixture | None:
    """The encoded clips at config.path, several folders with weights as in `parse_paths`; None for anything else.

    scale: pixels per latent cell (time, height, width). audio_width: numbers of an audio token. Raises
    UserError for folders that are damaged.
    """
    if config.path is None:
        return None

    def open_set(path: Path) -> Clips | None:
        if is_prepared(path):
            return PreparedClips(path)
        root = precomputed_root(path)
        return None if root is None else PrecomputedClips(root, scale, audio_width)

    return open_mixture(config.path, open_set)
