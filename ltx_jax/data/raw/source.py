"""The source of clips that a config names: the procedural world, or real videos."""

from pathlib import Path

from ltx_jax.data.config import DataConfig
from ltx_jax.data.raw.item import Item, Source
from ltx_jax.data.raw.toy import world
from ltx_jax.data.raw.toyworld import ToyWorldConfig, render
from ltx_jax.data.raw.videos import VideoSource
from ltx_jax.errors import require


class ExactWorldSource:
    """The toy world of data/raw/toy: item n is clip n of the world of the data seed, of combinations to train on."""

    def __init__(self, config: DataConfig):
        self.config = world.WorldConfig(config.width, config.height, config.frames, config.fps, config.sample_rate)
        self.seed, self.size = config.seed, config.size
        self.fingerprint = f"toy-{self.seed}-{self.size}-{self.config}"

    def __len__(self) -> int:
        return self.size

    def item(self, number: int, draw: int) -> Item:
        """Clip `number`; nothing about it is drawn."""
        del draw
        clip = world.render(self.seed, number, self.config)
        return {"video": clip.video, "audio": clip.audio, "has_audio": True, "caption": clip.caption}


class ToyWorldSource:
    """The first toy world, which the shipped weights saw: item n is clip n of the world of the data seed."""

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
        return (ExactWorldSource if config.world == "exact" else ToyWorldSource)(config)
    return VideoSource(config, workdir)
