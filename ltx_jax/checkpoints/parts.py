"""Which tensors of an official file belong to which part: prefixes and name lists, from a release's configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ltx_jax.names import Name, to_official, to_tree
from ltx_jax.names.audio_vae import audio_decoder_names, audio_encoder_names
from ltx_jax.names.connectors import text_connectors_names
from ltx_jax.names.dit import dit_names
from ltx_jax.names.gemma3 import gemma3_names
from ltx_jax.names.video_vae import video_decoder_names, video_encoder_names
from ltx_jax.names.vocoder import vocoder_names
from ltx_jax.releases import Release

TRANSFORMER_PREFIX = "model.diffusion_model."
STATISTICS = [Name("mean-of-means", ("mean",)), Name("std-of-means", ("std",))]


@dataclasses.dataclass(frozen=True)
class PartNames:
    """Tensor names of one part; `prefixes` are tried in order (split files drop the first component)."""

    names: list[Name]
    prefixes: tuple[str, ...]
    file: str = "model"  # or "text_encoder"

    def read(self, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Our parameter tree of this part. Raises UserError naming the first missing tensor."""
        first = self.names[0].officials()[0]
        prefix = next((p for p in self.prefixes if p + first in tensors), self.prefixes[0])
        return to_tree(self.names, tensors, prefix)

    def write(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Official tensors of this part, with its first prefix."""
        return to_official(self.names, params, self.prefixes[0])


def part_names(release: Release) -> dict[str, PartNames]:
    """Name lists of every part of `release` (spec transformer.md 2, video_vae.md 10, audio_vae.md 10, gemma.md 7)."""
    parts = {
        "transformer": PartNames(dit_names(release.transformer), (TRANSFORMER_PREFIX, "")),
        "connectors": PartNames(text_connectors_names(release.connectors), ("",)),
        "video_encoder": PartNames(video_encoder_names(release.video_vae), ("vae.encoder.", "encoder.")),
        "video_decoder": PartNames(video_decoder_names(release.video_vae), ("vae.decoder.", "decoder.")),
        "video_statistics": PartNames(STATISTICS, ("vae.per_channel_statistics.", "per_channel_statistics.")),
        "audio_encoder": PartNames(audio_encoder_names(release.audio_vae), ("audio_vae.encoder.",)),
        "audio_decoder": PartNames(audio_decoder_names(release.audio_vae), ("audio_vae.decoder.",)),
        "audio_statistics": PartNames(STATISTICS, ("audio_vae.per_channel_statistics.",)),
        "vocoder": PartNames(vocoder_names(release.vocoder), ("vocoder.",)),
    }
    if release.text is not None:
        prefixes = ("language_model.model.", "model.language_model.", "model.")
        parts["text"] = PartNames(gemma3_names(release.text), prefixes, "text_encoder")
    return parts
