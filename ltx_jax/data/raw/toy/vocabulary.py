"""What there is in the toy world, and which combinations of it no training clip shows."""

import itertools

# Eight colours that are told apart by hue, RGB 0..255.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35), "green": (35, 190, 55), "blue": (45, 75, 235), "yellow": (240, 220, 40),
    "cyan": (45, 210, 220), "magenta": (225, 50, 205), "orange": (245, 135, 25), "white": (245, 245, 245),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "diamond")
SIZES: dict[str, float] = {"small": 0.13, "": 0.17, "big": 0.22}  # radius as a share of the picture's shorter side
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (12, 12, 14), "gray": (72, 72, 76), "navy": (16, 22, 58), "brown": (62, 42, 28), "teal": (14, 56, 54),
}  # fmt: skip
WALLS = ("left", "right", "top", "bottom")

# Pitch by shape in Hz. All are multiples of 100, the mel frames per second of the toy's audio, and phases count from
# the clip's beginning: then every frame of a tone holds the same wave. No pitch is an overtone of another.
PITCHES = {"circle": 400.0, "square": 300.0, "triangle": 500.0, "diamond": 700.0}
# Timbre by colour: (number of the overtone, its loudness against the pitch's).
OVERTONES = {name: (2 + i % 4, 0.25 + 0.5 * (i // 4)) for i, name in enumerate(COLORS)}

# (colour, shape) and (size, background) pairs that no training clip shows, so that agreement with prompts which name
# them measures composition rather than memory.
UNSEEN_BODIES = frozenset({("green", "circle"), ("orange", "square"), ("cyan", "triangle"), ("magenta", "diamond")})
UNSEEN_SCENES = frozenset({("small", "navy"), ("", "brown"), ("big", "gray")})


def is_unseen(colors: tuple[str, ...], shapes: tuple[str, ...], sizes: tuple[str, ...], background: str) -> bool:
    """Whether a clip of these bodies on this background shows a combination that training never does."""
    bodies = set(zip(colors, shapes, strict=True))
    return bool(bodies & UNSEEN_BODIES or set(itertools.product(sizes, [background])) & UNSEEN_SCENES)
