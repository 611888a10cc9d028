"""What a clip of the toy world shows and sounds like, read from pixels and samples alone.

These are the instruments behind every claim about the toy: they are checked on rendered clips, whose truth is known,
in tests/evaluation, and then applied to generated ones.
"""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from ltx_jax.data.raw.toyworld import COLORS

FOREGROUND = 60.0  # RGB distance from the background from which a pixel counts as part of a shape


@dataclasses.dataclass(frozen=True)
class Observation:
    """What a clip shows.

    color: nearest named colour of the foreground, None where there is none. share: part of the pixels that are
    foreground. path: how far the foreground's centre travels, in widths of the picture. tonality: 0 (noise) to 1
    (pure tones). loudness: root mean square of the sound.
    """

    color: str | None
    share: float
    path: float
    tonality: float
    loudness: float


def observe(video: np.ndarray, audio: np.ndarray) -> Observation:
    """Read a clip: video uint8 (F, h, w, 3), audio float32 (2, samples)."""
    distance = background_distance(video)  # (F, h, w)
    mask = distance > FOREGROUND
    color = foreground_color(video, distance) if mask.mean() > 0.002 else None
    return Observation(color, float(mask.mean()), centre_path(mask), tonality(audio), float(np.sqrt(np.mean(audio**2))))


def background_distance(video: np.ndarray) -> np.ndarray:
    """RGB distance of every pixel from the clip's background (its median colour): float64 (F, h, w)."""
    pixels = video.astype(np.float64)
    return np.linalg.norm(pixels - np.median(pixels, axis=(0, 1, 2)), axis=-1)


def foreground_color(
    video: np.ndarray, distance: np.ndarray, palette: Mapping[str, tuple[int, int, int]] = COLORS
) -> str:
    """The palette's colour nearest to the foreground's median; soft edges are left out."""
    strong = distance > 0.7 * np.quantile(distance[distance > FOREGROUND], 0.9)
    median = np.median(video[strong].astype(np.float64), axis=0)
    return min(palette, key=lambda name: float(np.linalg.norm(median - np.asarray(palette[name], np.float64))))


def centre_path(mask: np.ndarray) -> float:
    """Length of the path of the foreground's centre over the frames, in widths; frames without any are passed over."""
    centres = [np.argwhere(frame).mean(axis=0) for frame in mask if frame.any()]
    return float(sum(np.linalg.norm(b - a) for a, b in itertools.pairwise(centres))) / mask.shape[2]


def tonality(audio: np.ndarray, window: int = 1024) -> float:
    """1 minus the spectral flatness of the louder half of the sound: near 0 for white noise, near 1 for tones."""
    mono = audio.mean(axis=0)
    frames = mono[: len(mono) // window * window].reshape(-1, window) * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=-1)) ** 2 + 1e-12
    loud = power[power.sum(-1) >= np.median(power.sum(-1))]
    flatness = np.exp(np.log(loud).mean(-1)) / loud.mean(-1)
    return float(1 - flatness.mean())
