"""Pictures of the toy world: flat shapes with exact edges, from how much of each pixel they cover."""

import math
from typing import Any

import numpy as np

SAMPLES = 3  # sub-pixels of a side over which coverage is averaged
SLIMNESS = 0.5  # a diamond's width against its height: a narrow one, so that a spinning square is none


def distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance from (x, y) to the shape's edge, negative inside; its corners lie on the circle of `radius`.

    Outside of corners it is a lower bound, which is all that coverage of pixels asks for.
    """
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * math.sqrt(0.5)
    if shape == "diamond":
        return (np.abs(x) + SLIMNESS * (np.abs(y) - radius)) / math.hypot(1, SLIMNESS)
    sides = [math.cos(a) * x + math.sin(a) * y for a in (math.pi / 2, math.pi * 7 / 6, math.pi * 11 / 6)]
    return np.maximum.reduce(sides) - radius * 0.5


def coverage(
    shape: str, x: np.ndarray, y: np.ndarray, angle: np.ndarray, radius: float, samples: int = SAMPLES
) -> np.ndarray:
    """Share of each pixel that the turned shape covers: x, y (..., h, w) are pixels from its centre, as radius is.

    angle broadcasts against them, in radians. Averages over samples x samples sub-pixels with edges as wide as one.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    total: Any = 0.0
    for dx in (np.arange(samples) + 0.5) / samples - 0.5:
        for dy in (np.arange(samples) + 0.5) / samples - 0.5:
            u, v = x + dx, y + dy
            away = distance(shape, cos * u + sin * v, cos * v - sin * u, radius)
            total = total + np.clip(0.5 - away * samples, 0, 1)
    return total / samples**2


def paint(frames: np.ndarray, shape: str, color: np.ndarray, places: np.ndarray, angles: np.ndarray, radius: float):
    """Draw one body into frames float32 (F, h, w, 3): centres `places` (F, 2) as (x, y) and `radius` in pixels."""
    side = 2 * math.ceil(radius) + 3
    corner = np.floor(places - side / 2).astype(int)  # (F, 2)
    grid = np.arange(side) + 0.5
    x = (corner[:, :1] + grid - places[:, :1])[:, None, :]  # (F, 1, side)
    y = (corner[:, 1:] + grid - places[:, 1:])[:, :, None]
    cover = coverage(shape, x, y, angles[:, None, None], radius).astype(np.float32)[..., None]
    height, width = frames.shape[1:3]
    for frame, (left, top), alpha in zip(frames, corner, cover, strict=True):
        rows, columns = slice(max(0, top), min(height, top + side)), slice(max(0, left), min(width, left + side))
        part = alpha[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        frame[rows, columns] += part * (color - frame[rows, columns])
