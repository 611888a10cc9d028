"""Distances between sets of toy clips, on features made by hand: fixed, and the same for every model.

Fréchet distance of Gaussians: Dowson & Landau (1982), as used by Heusel et al. (arXiv:1706.08500) on learned features.
"""

from collections.abc import Sequence

import numpy as np

from ltx_jax.evaluation.hearing import amplitudes
from ltx_jax.evaluation.scores import Observed


def features(video: np.ndarray, audio: np.ndarray, clip: Observed, rate: int) -> np.ndarray:
    """What a clip is like, float64 (25,): video uint8 (F, h, w, 3), audio float32 (2, samples) at rate Hz.

    Background (3), foreground's colour (3), share and its change (2), sharpness (1), change from frame to frame and its
    unevenness (2), centre, spread and step of the first body (6), loudness, balance and tones (3), bands (5).
    """
    pixels = video.astype(np.float64) / 255
    background = np.median(pixels, axis=(0, 1, 2))
    away = np.linalg.norm(pixels - background, axis=-1)  # (F, h, w)
    front = away > 0.3
    share, color = front.mean((1, 2)), pixels[front].mean(0) if front.any() else background
    slope = np.abs(np.diff(away, axis=1)).max((1, 2)).mean()
    change = np.abs(np.diff(pixels, axis=0)).mean((1, 2, 3)) if len(pixels) > 1 else np.zeros(1)
    places = clip.seen.bodies[0].places if clip.seen.bodies else np.full((2, 2), 0.5)
    places = places[np.isfinite(places).all(-1)]
    places = places if len(places) > 1 else np.full((2, 2), 0.5)
    level = amplitudes(audio, rate)
    bands = [np.log(1e-3 + part.mean()) for part in np.array_split(level, 5, axis=1)]
    left, right = np.sqrt(np.mean(np.square(audio), axis=1)) + 1e-4
    return np.array([
        *background, *color, share.mean(), share.std(), slope, change.mean(), change.std(),
        *places.mean(0), *places.std(0), *np.abs(np.diff(places, axis=0)).mean(0),
        np.log(left + right), np.log(left / right), len(clip.tones), *bands,
    ])  # fmt: skip


def frechet(first: np.ndarray, second: np.ndarray, scale: np.ndarray) -> float:
    """Distance of Gaussians through two sets (N, features), in units of `scale` (features,), per feature."""
    (m1, s1), (m2, s2) = (_moments(x / scale) for x in (first, second))
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s2 @ root), 0)).sum()
    return float((np.square(m1 - m2).sum() + np.trace(s1) + np.trace(s2) - 2 * cross) / len(scale))


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x, rowvar=False)


def spread(groups: Sequence[Sequence[Observed]]) -> float:
    """How much clips of one prompt differ in where their first body starts and where it goes: the standard deviation
    within a group, averaged over groups.
    """
    inside = []
    for clips in groups:
        bodies = [clip.seen.bodies[0].places for clip in clips if clip.seen.bodies]
        starts = np.array([[*p[0], *(p[min(3, len(p) - 1)] - p[0])] for p in bodies if np.isfinite(p).all()])
        inside.append(starts.std(0).mean() if len(starts) > 1 else 0.0)
    return float(np.mean(inside))
