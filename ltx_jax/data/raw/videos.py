"""Real videos as a source: windows of a folder's files at the config's rate and size, with their sound."""

from pathlib import Path

import numpy as np

from ltx_jax.data.config import DataConfig
from ltx_jax.data.raw.index import Entry, build_index
from ltx_jax.data.raw.item import Item
from ltx_jax.errors import UserError
from ltx_jax.media.video import VideoInfo, on_screen, read_all, read_audio, read_video
from ltx_jax.rng import numpy_rng

CACHE = 1 << 30  # bytes of small frames that a process may keep of a folder


class VideoSource:
    """Item n is a window of video n; which window follows from (seed, n, draw).

    A video shorter than the window but at least half as long holds its last frame; a shorter one is rejected when the
    folder is indexed.
    """

    def __init__(self, config: DataConfig, workdir: Path | None = None):
        """Raises UserError as `build_index`."""
        assert config.path is not None
        self.config = config
        self.seconds = config.frames / config.fps
        self.index = build_index(config.path, self._reason, workdir)
        c = config
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.fingerprint = f"{self.index.fingerprint}-{c.frames}x{c.height}x{c.width}@{c.fps}-{c.sample_rate}-{c.seed}"

    def _reason(self, info: VideoInfo) -> str | None:
        if info.seconds >= self.seconds / 2 or self.config.frames == 1:
            return None
        return f"it lasts {info.seconds:.2f} s, less than half of a clip's {self.seconds:.2f} s."

    def __len__(self) -> int:
        return len(self.index.entries)

    def item(self, number: int, draw: int) -> Item:
        """A window of video `number`. Raises UserError for a file that fails now, unless the config replaces it."""
        for turn in range(len(self)):
            entry = self.index.entries[(number + turn) % len(self)]
            try:
                return self._read(entry, number, draw)
            except UserError:
                if self.config.on_error == "stop":
                    raise
        raise UserError(f"No video of '{self.config.path}' can be read any more.")

    def _window(self, entry: Entry, start: float) -> np.ndarray:
        """Frames (F, height, width, 3) from `start` seconds on; short videos are decoded once and kept, made small."""
        c = self.config
        size = entry.info.seconds * entry.info.fps * c.height * c.width * 3
        if size * len(self) > CACHE:
            return read_video(entry.path, frames=c.frames, fps=c.fps, height=c.height, width=c.width, start=start)
        if entry.path not in self._kept:
            self._kept[entry.path] = read_all(entry.path, c.height, c.width)
        return on_screen(*self._kept[entry.path], start + np.arange(c.frames) / c.fps)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_kept": {}}  # worker processes decode for themselves

    def _read(self, entry: Entry, number: int, draw: int) -> Item:
        c = self.config
        room = max(0.0, entry.info.seconds - self.seconds)
        start = float(numpy_rng(c.seed, "data.window", number, draw).uniform(0, room)) if room else 0.0
        video = self._window(entry, start)
        audio, heard = read_audio(entry.path, samples=c.audio_samples, sample_rate=c.sample_rate, start=start)
        return {"video": video, "audio": audio, "has_audio": np.bool_(heard), "caption": entry.caption}
