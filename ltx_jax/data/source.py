"""Sources of clips: numbered items of one form, whatever they are made from.

An item is a dict: video uint8 (F, h, w, 3), audio float32 (2, L), has_audio bool, caption str.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ltx_jax.config import require
from ltx_jax.data.config import DataConfig
from ltx_jax.data.toyworld import ToyWorldConfig, render

Item = dict[str, Any]


class Source(Protocol):
    """Items by number. `draw` selects what is random about an item (which window of a long video); equal numbers and
    draws give equal items. fingerprint: changes when the data do.
    """

    fingerprint: str

    def __len__(self) -> int: ...

    def item(self, number: int, draw: int) -> Item: ...


class ToyWorldSource:
    """The procedural world: item n is clip n of the world of the data seed."""

    def __init__(self, config: DataConfig):
        square = config.height == config.width
        require(square, f"The toy world is square, not {config.width} x {config.height}; give data.path for videos.")
        self.config = ToyWorldConfig(config.width, config.frames, config.fps, config.sample_rate)
        self.seed, self.size = config.seed, config.size
        self.fingerprint = f"toyworld-{self.seed}-{self.size}-{self.config}"

    def __len__(self) -> int:
        return self.size

    def item(self, number: int, draw: int) -> Item:
        """Clip `number`; nothing about it is drawn."""
        del draw
        clip = render(self.seed, number, self.config)
        return {"video": clip.video, "audio": clip.audio, "has_audio": True, "caption": clip.caption}


def open_source(config: DataConfig, workdir: Path | None = None) -> Source:
    """The source that `config` names; videos are probed and indexed in `workdir`.

    Raises UserError when the path does not exist or holds no readable video.
    """
    if config.path is None:
        return ToyWorldSource(config)
    from ltx_jax.data.videos import VideoSource

    return VideoSource(config, workdir)


def collate(items: list[Item]) -> dict[str, Any]:
    """A batch of items: stacked arrays, captions as a list."""
    batch = {name: np.stack([item[name] for item in items]) for name in ("video", "audio")}
    batch["has_audio"] = np.array([item["has_audio"] for item in items], bool)
    return batch | {"caption": [item["caption"] for item in items]}
