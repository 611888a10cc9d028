"""A finished clip: frames, sound, and where it came from."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from ltx_jax.media.images import contact_sheet
from ltx_jax.media.video import write_video


@dataclasses.dataclass(frozen=True)
class Clip:
    """video: uint8 (F, h, w, 3) at `fps`; audio: float32 (2, samples) in [-1, 1] at `sample_rate` Hz.

    metadata: strings that say how it was made (prompt, seed, config); they are written into the file.
    """

    video: np.ndarray
    fps: float
    audio: np.ndarray
    sample_rate: int
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write H.264 and AAC to `path`. Raises UserError for an ending that is no video."""
        write_video(path, self.video, self.fps, self.audio, self.sample_rate, self.metadata)
        return Path(path)

    def contact_sheet(self, path: str | os.PathLike[str]) -> Path:
        """Write the frames side by side as a PNG."""
        contact_sheet([self.video], path)
        return Path(path)
