"""Resizing to a given size: by bicubic cover for training data, by bilinear fill for conditioning pictures.

Arrays are float32 (h, w, channels) in any range unless said otherwise.
"""

import numpy as np
from PIL import Image


def covering(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) to which `size` is resized to cover `target` with its aspect kept (spec training.md 7.3)."""
    (height, width), (tall, wide) = size, target
    if width * tall > wide * height:
        return tall, width * tall // height
    return height * wide // width, wide


def resize_crop(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic cover with antialiasing, then the middle: (height, width, channels), not clamped (training.md 7.3)."""
    tall, wide = covering((frame.shape[0], frame.shape[1]), (height, width))
    planes = [Image.fromarray(np.ascontiguousarray(p, np.float32)) for p in np.moveaxis(frame, -1, 0)]
    resized = np.stack([np.asarray(p.resize((wide, tall), Image.Resampling.BICUBIC)) for p in planes], axis=-1)
    return _middle(resized, height, width)


def bilinear(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear without antialiasing, half-pixel centres, edges held (spec sampling.md 9.3)."""
    result = frame
    for axis, size in ((0, height), (1, width)):
        low, high, share = _neighbours(result.shape[axis], size)
        share = share.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        lower, upper = (result.take(indices, axis).astype(np.float32) for indices in (low, high))
        result = lower * (1 - share) + upper * share
    return result


def fill_crop(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear until it fills height x width, then the middle (spec sampling.md 9.3)."""
    h, w = frame.shape[:2]
    scale = max(height / h, width / w)
    tall, wide = int(np.ceil(h * scale)), int(np.ceil(w * scale))
    return _middle(bilinear(frame, tall, wide), height, width)


def fit_pad(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Shrunk to fit if it must be, then padded at the bottom and right by reflection, or by the edge where the
    padding is too large for that (spec sampling.md 9.3).
    """
    h, w = frame.shape[:2]
    if h > height or w > width:
        scale = min(height / h, width / w)
        h, w = round(h * scale), round(w * scale)
        frame = bilinear(frame, h, w)
    mode = "reflect" if height - h < h and width - w < w else "edge"
    return np.pad(frame.astype(np.float32), ((0, height - h), (0, width - w), (0, 0)), mode=mode)


def long_side(frame: np.ndarray, length: int) -> np.ndarray:
    """The longer side brought to `length`, the other in proportion and truncated (spec sampling.md 9.3)."""
    h, w = frame.shape[:2]
    scale = length / max(h, w)
    return fill_crop(frame, int(h * scale), int(w * scale))


def aligned(size: int, divisor: int, *, up: bool) -> int:
    """The multiple of `divisor` at or above `size`, to be padded to, or at or below it, to be cropped to (9.3)."""
    return -(-size // divisor) * divisor if up else size // divisor * divisor


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper source index and the upper's share, for every output pixel."""
    place = np.maximum((np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new) - 0.5, 0)
    low = np.minimum(place.astype(int), old - 1)
    return low, np.minimum(low + 1, old - 1), (place - low).astype(np.float32)


def _middle(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]
