"""Where training clips come from and what form they take."""

import dataclasses
from typing import Literal

from ltx_jax.errors import require

LONGEST = 600.0  # seconds of a clip; beyond lies a wrong fps


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The clips of a run.

    path: folder of videos, or a CSV or JSONL list of them; or folders of encoded clips, "A" or "A:3,B:1" with weights
    (data/encoded/datasets.py), whose own sizes then count; None: the procedural toy world. world: its version; the
    "first" is square and counts in ticks, the "exact" one (data/raw/toy) has exact bounces and keeps combinations for
    tests. frames at fps (frames per second), height, width in pixels; audio at sample_rate Hz. workers: processes that
    decode (0: in this one). seed: of the order and of what is drawn from each file. size: clips of the toy world.
    on_error: what a file that fails later does: "stop" the run with a sentence, or "replace" it by the next file of
    the index.
    """

    path: str | None = None
    frames: int = 17
    height: int = 32
    width: int = 32
    fps: float = 8.0
    sample_rate: int = 16000
    workers: int = 0
    seed: int = 0
    size: int = 100_000
    on_error: Literal["stop", "replace"] = "stop"
    world: Literal["first", "exact"] = "first"

    def __post_init__(self):
        sizes = (self.frames, self.height, self.width)
        require(min(sizes) >= 1, f"frames, height and width must be at least 1, not {sizes}.")
        require(self.fps > 0, f"fps must be above 0, not {self.fps}.")
        seconds = self.frames / self.fps
        require(seconds <= LONGEST, f"{self.frames} frames at {self.fps:g} fps last {seconds:.0f} s: raise fps.")
        require(self.sample_rate >= 4000, f"sample_rate must be at least 4000 Hz, not {self.sample_rate}.")
        require(self.workers >= 0, f"workers must not be negative, not {self.workers}.")
        require(self.size >= 1, f"The toy world needs at least one clip, not {self.size}.")

    @property
    def audio_samples(self) -> int:
        """Samples of a clip's sound per channel."""
        return int(self.frames / self.fps * self.sample_rate)
