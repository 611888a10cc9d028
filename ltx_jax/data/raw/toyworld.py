"""The toy world: small procedural clips with sound whose truth is known, a pure function of (seed, number).

One or two coloured shapes move on a dull background, spin, bounce off the walls and off each other. Every bounce makes
a short pitched tone: pitch by shape, timbre by colour, stereo position and loudness by place and speed.
"""

import dataclasses

import numpy as np

from ltx_jax.data.raw.toy.motion import Bounce
from ltx_jax.data.raw.toy.vocabulary import WALLS
from ltx_jax.errors import require
from ltx_jax.rng import numpy_rng

# Eight colours that are told apart by hue, RGB 0..255.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35), "green": (35, 190, 55), "blue": (45, 75, 235), "yellow": (240, 220, 40),
    "cyan": (45, 210, 220), "magenta": (225, 50, 205), "orange": (245, 135, 25), "white": (245, 245, 245),
}  # fmt: skip
# Pitches in Hz are multiples of 100, the mel frames per second of the toy's audio, and all phases count from the clip's
# beginning: then every frame of a tone holds the same wave, and a vocoder of two minutes' training can say it exactly.
SHAPES: dict[str, float] = {"circle": 400.0, "square": 300.0, "triangle": 600.0, "diamond": 800.0}
SIZES: dict[str, float] = {"small": 0.14, "": 0.19, "big": 0.25}  # radius as a share of the picture
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (12, 12, 14), "gray": (72, 72, 76), "navy": (16, 22, 58), "brown": (62, 42, 28), "teal": (14, 56, 54),
}  # fmt: skip
HARMONICS = {name: i for i, name in enumerate(COLORS)}  # timbre: which overtone is strong


@dataclasses.dataclass(frozen=True)
class ToyWorldConfig:
    """size: pixels of a side. frames at fps (frames per second). sample_rate in Hz."""

    size: int = 32
    frames: int = 17
    fps: float = 8.0
    sample_rate: int = 16000

    def __post_init__(self):
        require(
            self.size >= 16 and self.frames >= 1,
            f"A toy clip needs 16 pixels and a frame, not {self.size}, {self.frames}.",
        )
        require(self.fps > 0 and self.sample_rate >= 4000, f"Bad rates: {self.fps} fps, {self.sample_rate} Hz.")


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a clip shows. positions: (bodies, frames, 2) centres (x, y) as shares of the picture."""

    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    sizes: tuple[str, ...]
    background: str
    positions: np.ndarray
    bounces: tuple[Bounce, ...]


@dataclasses.dataclass(frozen=True)
class ToyClip:
    """video uint8 (F, size, size, 3); audio float32 (2, samples) in [-1, 1]; its caption and truth."""

    video: np.ndarray
    audio: np.ndarray
    caption: str
    truth: Truth


def render(seed: int, number: int, config: ToyWorldConfig = ToyWorldConfig()) -> ToyClip:
    """Clip `number` of the world `seed`; nothing else decides what it shows."""
    rng = numpy_rng(seed, "toyworld", number)
    count = 1 if rng.random() < 0.7 else 2
    colors = tuple(rng.choice(list(COLORS), count, replace=False))
    shapes = tuple(rng.choice(list(SHAPES), count))
    sizes = tuple(rng.choice(list(SIZES), count, p=(0.2, 0.6, 0.2)))
    background = str(rng.choice(list(BACKGROUNDS)))
    positions, bounces = _simulate(rng, [SIZES[s] for s in sizes], config)
    spin = rng.uniform(-2.5, 2.5, count)
    turn = rng.uniform(0, 2 * np.pi, count)
    truth = Truth(colors, shapes, sizes, background, positions, tuple(bounces))
    angles = turn[:, None] + spin[:, None] * np.arange(config.frames) / config.fps  # (bodies, F)
    return ToyClip(_draw(truth, angles, config), _sound(truth, config), _caption(rng, truth), truth)


def caption_corpus(count: int, seed: int = 0) -> list[str]:
    """Captions of `count` clips without rendering them large: for training a tokenizer."""
    tiny = ToyWorldConfig(size=16, frames=17, sample_rate=4000)
    return [render(seed, i, tiny).caption for i in range(count)]


def _simulate(rng: np.random.Generator, radii: list[float], config: ToyWorldConfig) -> tuple[np.ndarray, list[Bounce]]:
    """Straight flight with elastic bounces, integrated finely enough that no bounce is missed."""
    count, fine = len(radii), 16
    radius = np.array(radii)
    place = np.stack([rng.uniform(r + 0.02, 0.98 - r, 2) for r in radii])
    if count == 2 and np.linalg.norm(place[0] - place[1]) < radius.sum() + 0.05:
        place = np.array([[radius[0] + 0.05, 0.5], [0.95 - radius[1], 0.5]])
    heading = rng.uniform(0, 2 * np.pi, count)
    velocity = rng.uniform(0.45, 0.95, count)[:, None] * np.stack([np.cos(heading), np.sin(heading)], -1)  # per second
    step = 1 / (config.fps * fine)
    positions, bounces = np.zeros((count, config.frames, 2)), []
    for tick in range((config.frames - 1) * fine + 1):
        if tick % fine == 0:
            positions[:, tick // fine] = place
        place = place + velocity * step
        for body in range(count):
            for axis in range(2):
                low, high = place[body, axis] < radius[body], place[body, axis] > 1 - radius[body]
                if (low and velocity[body, axis] < 0) or (high and velocity[body, axis] > 0):
                    speed = abs(velocity[body, axis])
                    velocity[body, axis] *= -1
                    bounces.append(Bounce(tick * step, body, WALLS[2 * axis + int(high)], place[body, 0], speed))
        if count == 2:
            gap = place[1] - place[0]
            distance = np.linalg.norm(gap) + 1e-9
            normal = gap / distance
            closing = float((velocity[0] - velocity[1]) @ normal)
            if distance < radius.sum() and closing > 0:
                velocity[0], velocity[1] = velocity[0] - closing * normal, velocity[1] + closing * normal
                bounces += [Bounce(tick * step, body, "shape", place[body, 0], closing / 2) for body in range(2)]
    return positions, bounces


def _draw(truth: Truth, angles: np.ndarray, config: ToyWorldConfig) -> np.ndarray:
    """Frames with soft edges one pixel wide, from signed distances."""
    size = config.size
    axis = (np.arange(size) + 0.5) / size
    frames = np.broadcast_to(np.array(BACKGROUNDS[truth.background], np.float32), (config.frames, size, size, 3)).copy()
    for body, shape in enumerate(truth.shapes):
        x = axis[None, None, :] - truth.positions[body, :, 0, None, None]  # (F, 1, w)
        y = axis[None, :, None] - truth.positions[body, :, 1, None, None]  # (F, h, 1)
        cos, sin = np.cos(angles[body])[:, None, None], np.sin(angles[body])[:, None, None]
        distance = _distance(shape, cos * x + sin * y, cos * y - sin * x, SIZES[truth.sizes[body]])
        cover = np.clip(0.5 - distance * size, 0, 1)[..., None].astype(np.float32)  # (F, h, w, 1)
        frames += cover * (np.array(COLORS[truth.colors[body]], np.float32) - frames)
    return np.round(frames).astype(np.uint8)


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to the shape's edge, negative inside; all shapes fit the circle of `radius`."""
    if shape == "circle":
        return np.hypot(x, y) - radius * 0.92
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * 0.78
    if shape == "diamond":  # a narrow one, so that a spinning square is none
        return (np.abs(x) + 0.5 * np.abs(y)) / np.hypot(1, 0.5) - radius * 0.5
    sides = [np.cos(a) * x + np.sin(a) * y for a in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
    return np.maximum.reduce(sides) - radius * 0.55


def _sound(truth: Truth, config: ToyWorldConfig) -> np.ndarray:
    """A short decaying tone per bounce over a very soft hum of the background."""
    samples = int(config.frames / config.fps * config.sample_rate)
    time = np.arange(samples) / config.sample_rate
    hum = 0.004 * np.sin(2 * np.pi * 100 * (1 + list(BACKGROUNDS).index(truth.background)) * time)
    audio = np.stack([hum, hum])
    for bounce in truth.bounces:
        start = int(bounce.time * config.sample_rate)
        if start >= samples:
            continue
        t = time[: samples - start]
        pitch = SHAPES[truth.shapes[bounce.body]]
        overtone = 2 + HARMONICS[truth.colors[bounce.body]] % 4
        mix = 0.25 + 0.5 * (HARMONICS[truth.colors[bounce.body]] // 4)
        phase = 2 * np.pi * pitch * time[start:]
        wave = np.sin(phase) + mix * np.sin(overtone * phase)
        envelope = np.minimum(t / 0.005, 1) * np.exp(-t / 0.12)
        loud = 0.12 + 0.25 * min(bounce.speed, 1.0)
        pan = np.clip(bounce.x, 0, 1) * np.pi / 2
        audio[:, start:] += loud * envelope * wave * np.array([np.cos(pan), np.sin(pan)])[:, None]
    return np.clip(audio, -1, 1).astype(np.float32)


def _caption(rng: np.random.Generator, truth: Truth) -> str:
    """One sentence of the grammar: often only what there is, else also where it moves or what it hits."""
    names = [
        f"{'a ' + s + ' ' if s else 'a '}{c} {k}"
        for s, c, k in zip(truth.sizes, truth.colors, truth.shapes, strict=True)
    ]
    plain = [f"a {c} {k}" for c, k in zip(truth.colors, truth.shapes, strict=True)]
    form = rng.random()
    if form < 0.45:
        return " and ".join(plain)
    text = " and ".join(names) + f" on a {truth.background} background"
    if form < 0.65 or not truth.bounces:
        return text
    return text + "; " + _events(truth)


def _events(truth: Truth) -> str:
    """What the first shape bounces off, and how often."""
    walls = [b.against for b in truth.bounces if b.body == 0]
    shape = truth.shapes[0]
    if not walls:
        return f"the {shape} bounces off nothing"
    target = walls[0]
    times = {1: "once", 2: "twice"}.get(walls.count(target), "several times")
    what = "the other shape" if target == "shape" else f"the {target} wall"
    return f"the {shape} bounces off {what} {times}"
