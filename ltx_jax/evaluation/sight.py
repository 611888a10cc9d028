"""What the pixels of a toy clip show: background, bodies, their shapes and paths, and where they bounce.

Nothing but the picture is read. Pixels are taken for mixtures of the background and one of the world's colours; the
share of that colour, summed up, tells area and centre to a small part of a pixel, and a shape is the one that overlaps
best when it is drawn anew in the same place and size, however turned.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import ndimage

from ltx_jax.data.raw.toy.picture import coverage
from ltx_jax.data.raw.toy.vocabulary import BACKGROUNDS, COLORS, SHAPES, SIZES

BACKGROUND_OFF = 30.0  # RGB distance from which a background has no name
STRONG = 80.0  # RGB distance from the background from which a pixel is surely of a body
FAINT = 0.1  # share of a body's colour below which a pixel is background
SMALLEST = 0.006  # area of a body in squares of the shorter side; the world's smallest has 0.017
FIT = 0.85  # overlap (intersection over union) that a shape needs to be called one
LOOKS = 5  # frames in which shapes are looked at
AREAS = {"circle": np.pi, "square": 2.0, "triangle": 27**0.5 / 4, "diamond": 1.0}  # of radius 1
TURNS = {"circle": (1, 0.0), "square": (12, np.pi / 2), "triangle": (12, np.pi * 2 / 3), "diamond": (18, np.pi)}
KINK = 0.2  # change of velocity, in shorter sides a second, that is no error of measurement
NEAR = 0.08  # shorter sides between edges that touch, as far as can be seen from frame to frame


@dataclasses.dataclass(frozen=True)
class SeenBody:
    """One body. color: its name. shape: None where no shape overlaps well, and fit, how well the best one does (0..1).
    size: the name. places (F, 2): centres (x, y) in shorter sides, NaN where it is not seen; areas (F,) in squares of
    the shorter side. bounces: seconds at which it changes course; smooth: whether it goes straight between them.
    """

    color: str
    shape: str | None
    fit: float
    size: str
    places: np.ndarray
    areas: np.ndarray
    bounces: tuple[float, ...]
    smooth: bool


@dataclasses.dataclass(frozen=True)
class Seen:
    """A clip's picture. count: bodies, as often as one frame shows them. inside: no body leaves the picture, wholly or
    in part. moving: every body travels.
    """

    background: str | None
    bodies: tuple[SeenBody, ...]
    count: int
    inside: bool
    moving: bool

    @property
    def bounces(self) -> tuple[float, ...]:
        """Seconds of all bounces; where two bodies meet, once."""
        merged: list[float] = []
        for time in sorted(time for body in self.bodies for time in body.bounces):
            if not merged or time - merged[-1] > 0.04:
                merged.append(time)
        return tuple(merged)


def look(video: np.ndarray, fps: float) -> Seen:
    """Read a clip: video uint8 (F, h, w, 3) at fps frames per second."""
    pixels, short = video.astype(np.float32), min(video.shape[1:3])
    background = np.median(pixels.reshape(-1, 3), axis=0)
    names, shares = _unmix(pixels, background)
    strong = np.linalg.norm(pixels - background, axis=-1) > STRONG
    opening = np.ones((1, *(max(2, round(short / 24)),) * 2), bool)
    counts, least = np.zeros(len(video), int), SMALLEST * short**2 / 2
    tracked = []
    for i, color in enumerate(COLORS):
        mask = strong & (names == i)
        if mask.sum((1, 2)).max() < least:
            continue
        mask = ndimage.binary_opening(mask, opening)  # without the thin rims of other bodies
        pieces, largest = zip(*(_pieces(frame, least) for frame in mask), strict=True)
        counts += np.array(pieces)
        if np.mean(np.array(pieces) > 0) >= 0.5:
            cover = np.where((names == i) & (shares > FAINT), shares, 0)
            tracked.append((color, *_track(cover, np.stack(largest), short), cover))
    room = np.array(video.shape[2:0:-1]) / short
    shaped = [(color, places, areas, *_shape(cover, places, areas, short)) for color, places, areas, cover in tracked]
    bodies = tuple(_body(k, shaped, room, fps) for k in range(len(shaped)))
    typical = int(np.bincount(counts).argmax())
    steady = np.mean(counts == typical) >= 0.8
    return Seen(
        _nearest(background), bodies, typical if steady else -1,
        bool(bodies) and all(_inside(body, room) for body in bodies),
        bool(bodies) and all(_path(body.places) > 0.1 for body in bodies),
    )  # fmt: skip


def _unmix(pixels: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel the colour (its number) whose mixture with the background comes nearest, and its share 0..1."""
    away = np.array(list(COLORS.values()), np.float32) - background  # (colours, 3)
    rest = pixels - background
    shares = np.clip(rest @ (away / np.square(away).sum(-1, keepdims=True)).T, 0, 1)  # (F, h, w, colours)
    # |rest - share * away|^2 without an array of (..., colours, 3)
    error = shares**2 * np.square(away).sum(-1) - 2 * shares * (rest @ away.T)
    names = error.argmin(-1)
    return names, np.take_along_axis(shares, names[..., None], -1)[..., 0]


def _pieces(mask: np.ndarray, least: float) -> tuple[int, np.ndarray]:
    """How many connected pieces of at least `least` pixels there are, and the largest one's surroundings (h, w)."""
    found: Any = ndimage.label(mask)
    labels, count = found
    if not count:
        return 0, np.zeros_like(mask)
    sizes = ndimage.sum_labels(mask, labels, np.arange(1, count + 1))
    around = ndimage.binary_dilation(labels == 1 + sizes.argmax(), iterations=4)
    return int((sizes >= least).sum()), around


def _track(cover: np.ndarray, around: np.ndarray, short: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (F, 2) and areas (F,) of the colour's share near its largest piece, in units of the shorter side."""
    cover = np.where(around, cover, 0)
    areas = cover.sum((1, 2))
    y, x = (np.arange(n) + 0.5 for n in cover.shape[1:])
    sums = np.stack([(cover * x).sum((1, 2)), (cover * y[:, None]).sum((1, 2))], -1)
    places = np.where(areas[:, None] > 0, sums / np.maximum(areas, 1e-9)[:, None], np.nan)
    return places / short, areas / short**2


def _shape(cover: np.ndarray, places: np.ndarray, areas: np.ndarray, short: int) -> tuple[str, float]:
    """The shape that overlaps best over some frames, and its mean overlap."""
    frames = [int(f) for f in np.linspace(0, len(cover) - 1, LOOKS).round() if areas[int(f)] > SMALLEST]
    if not frames:
        return SHAPES[0], 0.0
    fits = {shape: np.mean([_overlap(shape, cover[f], places[f] * short, areas[f] * short**2) for f in frames])
            for shape in SHAPES}  # fmt: skip
    best = max(fits, key=lambda shape: fits[shape])
    return best, float(fits[best])


def _overlap(shape: str, cover: np.ndarray, place: np.ndarray, area: float) -> float:
    """Intersection over union of cover (h, w) and the best turned shape of the same centre and area (pixels)."""
    radius = float(np.sqrt(area / AREAS[shape]))
    reach = int(np.ceil(1.05 * np.sqrt(area))) + 2
    left, top = (max(0, int(p) - reach) for p in place)
    part = cover[top : top + 2 * reach, left : left + 2 * reach]
    y, x = (np.arange(n) + 0.5 for n in part.shape)
    count, period = TURNS[shape]
    angles = (np.arange(count) * period / count)[:, None, None]
    drawn = coverage(shape, x + left - place[0], (y + top - place[1])[:, None], angles, radius, samples=1)
    return float((np.minimum(drawn, part).sum((1, 2)) / np.maximum(drawn, part).sum((1, 2))).max())


def _body(k: int, shaped: list, room: np.ndarray, fps: float) -> SeenBody:
    color, places, areas, shape, fit = shaped[k]
    radius = float(np.sqrt(np.median(areas) / AREAS[shape]))
    size = min(SIZES, key=lambda name: abs(np.log(SIZES[name] / max(radius, 1e-6))))
    others = [(o[1], float(np.sqrt(np.median(o[2]) / AREAS[o[3]]))) for o in shaped if o is not shaped[k]]
    times, rest = find_bounces(places, fps)
    touching = all(_touches(time, places, radius, others, room, fps) for time in times)
    return SeenBody(color, shape if fit >= FIT else None, fit, size, places, areas, times, touching and rest <= KINK)


def find_bounces(places: np.ndarray, fps: float) -> tuple[tuple[float, ...], float]:
    """Seconds at which a path (F, 2) changes course, and the largest change of velocity that is left between them.

    A bounce between two frames bends the path at both, in parts that tell when it happened; the largest bends are
    taken first. A path with gaps has no bounces and an infinite rest.
    """
    if len(places) < 3 or not np.isfinite(places).all():
        return (), float("inf")
    bend = np.diff(places, 2, axis=0) * fps  # (F - 2, 2), of frames 1 .. F - 2
    free, times = np.ones(len(bend), bool), []
    while True:
        both = np.linalg.norm(bend[:-1] + bend[1:], axis=-1) * (free[:-1] & free[1:])
        k = int(both.argmax()) if len(both) else 0
        if not len(both) or both[k] < KINK:
            break
        whole = bend[k] + bend[k + 1]
        share = float(np.clip(bend[k + 1] @ whole / (whole @ whole), 0, 1))
        times.append((1 + k + share) / fps)
        free[k : k + 2] = False
    return tuple(sorted(times)), float(np.linalg.norm(bend[free], axis=-1).max(initial=0))


def _touches(time: float, places: np.ndarray, radius: float, others: list, room: np.ndarray, fps: float) -> bool:
    """Whether the body is at a wall or at another body then."""
    frames = [int(np.floor(time * fps)), min(int(np.ceil(time * fps)), len(places) - 1)]
    at = places[frames]
    wall = np.minimum(at, room - at).min() - radius
    gaps = [np.linalg.norm(at - other[frames], axis=-1).min() - radius - size for other, size in others]
    return min([wall, *gaps]) < NEAR


def _inside(body: SeenBody, room: np.ndarray) -> bool:
    """Seen in every frame, with its whole area, within the picture."""
    whole = np.isfinite(body.places).all() and body.areas.min() > 0.8 * np.median(body.areas)
    return bool(whole and (body.places > 0).all() and (body.places < room).all())


def _path(places: np.ndarray) -> float:
    known = places[np.isfinite(places).all(-1)]
    return float(np.linalg.norm(np.diff(known, axis=0), axis=-1).sum())


def _nearest(color: np.ndarray) -> str | None:
    """The background's name, None for a colour that none of them is near to."""
    off = {name: float(np.linalg.norm(color - np.array(rgb))) for name, rgb in BACKGROUNDS.items()}
    best = min(off, key=lambda name: off[name])
    return best if off[best] < BACKGROUND_OFF else None
