"""References of clips for IC-LoRA, made from the clips themselves: outlines of the picture, the sound muffled.

Enough to teach "follow the reference" without a second set of videos (spec training.md 7.5 makes edges too).
"""

import numpy as np

from ltx_jax.data.buckets import temporal_subsample
from ltx_jax.data.raw.item import Item, Source

MUFFLE = 16  # samples that the muffled sound averages over: 1 kHz and above fade at 16 kHz


class ReferenceSource:
    """The references of the clips of `source`, numbered alike.

    downscale: divides height and width. temporal: frames 0, 1, 1 + temporal, ... are kept.
    """

    def __init__(self, source: Source, downscale: int = 1, temporal: int = 1):
        self._source, self._downscale, self._temporal = source, downscale, temporal
        self.fingerprint = f"outlines-{downscale}-{temporal} {source.fingerprint}"

    def __len__(self) -> int:
        return len(self._source)

    def item(self, number: int, draw: int) -> Item:
        """The reference of clip `number`."""
        item = self._source.item(number, draw)
        frames = item["video"][temporal_subsample(len(item["video"]), self._temporal)]
        return item | {"video": shrink(outlines(frames), self._downscale), "audio": muffled(item["audio"])}


def outlines(video: np.ndarray) -> np.ndarray:
    """White outlines on black: the size of the brightness gradient. uint8 (F, h, w, 3) -> the same."""
    grey = video.astype(np.float32).mean(axis=-1)  # (F, h, w)
    rows = np.diff(grey, axis=1, append=grey[:, -1:])
    columns = np.diff(grey, axis=2, append=grey[:, :, -1:])
    size = np.clip(2 * np.hypot(rows, columns), 0, 255).astype(np.uint8)
    return np.repeat(size[..., None], 3, axis=-1)


def shrink(video: np.ndarray, factor: int) -> np.ndarray:
    """Means of factor x factor squares, which must fit. uint8 (F, h, w, 3) -> (F, h / factor, w / factor, 3)."""
    frames, height, width, _ = video.shape
    squares = video.reshape(frames, height // factor, factor, width // factor, factor, 3)
    return squares.mean(axis=(2, 4)).round().astype(np.uint8)


def muffled(audio: np.ndarray, width: int = MUFFLE) -> np.ndarray:
    """A running mean over `width` samples, float32 (2, L)."""
    kernel = np.full(width, 1 / width, np.float32)
    return np.stack([np.convolve(channel, kernel, mode="same") for channel in audio]).astype(np.float32)
