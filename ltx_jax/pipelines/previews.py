"""What a training shows of its transformer: clips of fixed prompts, by one sampler that lives as long as it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ltx_jax.bundle import Bundle
from ltx_jax.media.images import contact_sheet
from ltx_jax.media.video import write_video
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.sampler import Sampler
from ltx_jax.releases import Release


class Previews:
    """Called with the weights of a step, it leaves step_N.mp4 and step_N.png; only the first call compiles.

    The file is a grid of clips, one a prompt, with the first one's sound.
    """

    def __init__(self, release: Release, tokenizer: Tokenizer | None, mesh: Mesh, prompts: Sequence[str]):
        self._release, self._tokenizer, self._mesh = release, tokenizer, mesh
        self._request = Request(tuple(prompts), seed=0)
        self._sampler: Sampler | None = None

    def __call__(self, params: Mapping[str, Any], step: int, folder: Path) -> None:
        """params: by part, of all parts; step: their number, in the names of the files in `folder`."""
        bundle = Bundle(self._release, params, self._tokenizer)
        if self._sampler is None:
            self._sampler = Sampler(bundle, self._mesh)
        self._sampler.use(bundle)
        clips = self._sampler.generate(self._request)
        self._sampler.forget()  # the training needs the memory, and gives some of these arrays away in its next step
        grid = np.concatenate([clip.video for clip in clips], axis=2)  # side by side
        first = clips[0]
        write_video(folder / f"step_{step:06d}.mp4", grid, first.fps, first.audio, first.sample_rate)
        contact_sheet([clip.video for clip in clips], folder / f"step_{step:06d}.png")
