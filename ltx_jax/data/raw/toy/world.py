"""Clips of the toy world, a pure function of (seed, number).

One or two coloured shapes move on a dull background, spin, bounce off the walls and off each other. Every bounce makes
a short tone: pitch by shape, timbre by colour, stereo position and loudness by place and speed.
"""

import dataclasses
from typing import Literal

import numpy as np

from ltx_jax.data.raw.toy import captions
from ltx_jax.data.raw.toy.motion import Bounce, draw_flight
from ltx_jax.data.raw.toy.picture import paint
from ltx_jax.data.raw.toy.sound import sound
from ltx_jax.data.raw.toy.vocabulary import BACKGROUNDS, COLORS, SHAPES, SIZES, is_unseen
from ltx_jax.errors import require
from ltx_jax.rng import numpy_rng

Combinations = Literal["seen", "unseen", "any"]
TWO_BODIES = 0.4  # share of clips


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """width, height in pixels; frames at fps (frames per second); sample_rate in Hz. The sound is as long as the
    frames. combinations: which pairs of attributes clips show, see vocabulary.py; training clips show the seen ones.
    """

    width: int = 64
    height: int = 64
    frames: int = 25
    fps: float = 12.5
    sample_rate: int = 16000
    combinations: Combinations = "seen"

    def __post_init__(self):
        short, long = sorted((self.width, self.height))
        require(
            short >= 16 and self.frames >= 1,
            f"A toy clip needs 16 x 16 pixels and a frame, not {self.width} x {self.height}, {self.frames}.",
        )
        require(long <= 4 * short, f"A toy world of {self.width} x {self.height} is too long: at most 1 to 4.")
        require(self.fps > 0 and self.sample_rate >= 4000, f"Bad rates: {self.fps} fps, {self.sample_rate} Hz.")

    @property
    def samples(self) -> int:
        """Samples of a clip's sound per channel."""
        return int(self.frames / self.fps * self.sample_rate)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a clip shows, apart from motion: of every body its colour, shape and size, and the background."""

    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    sizes: tuple[str, ...]
    background: str

    @property
    def unseen(self) -> bool:
        """Whether no training clip shows such a combination."""
        return is_unseen(self.colors, self.shapes, self.sizes, self.background)


@dataclasses.dataclass(frozen=True)
class Truth:
    """scene, and positions (bodies, F, 2): centres (x, y) in shorter sides of the picture; angles (bodies, F)."""

    scene: Scene
    positions: np.ndarray
    angles: np.ndarray
    bounces: tuple[Bounce, ...]


@dataclasses.dataclass(frozen=True)
class Clip:
    """video uint8 (F, h, w, 3); audio float32 (2, samples) in [-1, 1]; its caption and truth."""

    video: np.ndarray
    audio: np.ndarray
    caption: str
    truth: Truth


def render(seed: int, number: int, config: WorldConfig = WorldConfig(), scene: Scene | None = None) -> Clip:
    """Clip `number` of the world `seed`; nothing else decides what it shows, but the scene where one is given."""
    truth, text = told(seed, number, config, scene)
    shown = truth.scene
    audio = sound(truth.bounces, shown.shapes, shown.colors, shown.background, config.samples, config.sample_rate)
    return Clip(draw(truth, config), audio, text, truth)


def draw_scene(rng: np.random.Generator, combinations: Combinations = "any") -> Scene:
    """A scene of one body or two of different colours, of the wanted combinations; two big ones would find no room."""
    while True:
        count = 2 if rng.random() < TWO_BODIES else 1
        colors, shapes = rng.choice(list(COLORS), count, replace=False), rng.choice(SHAPES, count)
        sizes = tuple(map(str, rng.choice(list(SIZES), count, p=(0.25, 0.5, 0.25))))
        background = str(rng.choice(list(BACKGROUNDS)))
        scene = Scene(tuple(map(str, colors)), tuple(map(str, shapes)), sizes, background)
        if sizes != ("big", "big") and (combinations == "any" or scene.unseen == (combinations == "unseen")):
            return scene


def caption_corpus(count: int, seed: int = 0) -> list[str]:
    """Captions of `count` clips, with combinations of all kinds: for training a tokenizer."""
    config = WorldConfig(combinations="any")
    return [told(seed, number, config)[1] for number in range(count)]


def told(seed: int, number: int, config: WorldConfig, scene: Scene | None = None) -> tuple[Truth, str]:
    """Truth and caption of a clip, of which nothing is rendered."""
    rng = numpy_rng(seed, "toy", number)
    drawn = draw_scene(rng, config.combinations)
    truth = _move(rng, scene or drawn, config)
    shown = truth.scene
    text = captions.caption(rng, shown.colors, shown.shapes, shown.sizes, shown.background, truth.bounces)
    return truth, text


def _move(rng: np.random.Generator, scene: Scene, config: WorldConfig) -> Truth:
    radii = np.array([SIZES[size] for size in scene.sizes])
    room = np.array([config.width, config.height]) / min(config.width, config.height)
    flight = draw_flight(rng, radii, room, config.frames / config.fps)
    times, bodies = np.arange(config.frames) / config.fps, len(radii)
    turn, spin = rng.uniform(0, 2 * np.pi, (bodies, 1)), rng.uniform(-2.5, 2.5, (bodies, 1))
    return Truth(scene, flight.at(times), turn + spin * times, flight.bounces)


def draw(truth: Truth, config: WorldConfig) -> np.ndarray:
    """The frames of a truth, uint8 (F, h, w, 3)."""
    scene, scale = truth.scene, min(config.width, config.height)
    frames = np.empty((config.frames, config.height, config.width, 3), np.float32)
    frames[:] = BACKGROUNDS[scene.background]
    for body, shape in enumerate(scene.shapes):
        color, radius = np.array(COLORS[scene.colors[body]], np.float32), SIZES[scene.sizes[body]] * scale
        paint(frames, shape, color, truth.positions[body] * scale, truth.angles[body], radius)
    return np.round(frames).astype(np.uint8)
