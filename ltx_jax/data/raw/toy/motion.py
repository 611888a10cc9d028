"""Straight flight and elastic bounces with exact times: from event to event, with no ticks in between.

Lengths are shares of the picture's shorter side, so that the room of a square picture is 1 x 1; times are seconds.
"""

import dataclasses

import numpy as np

from ltx_jax.data.raw.toy.vocabulary import WALLS

SPEEDS = (0.35, 0.75)  # a second
SLOWEST_BOUNCE = 0.15  # speed across the wall, a second: what is slower can hardly be seen to bounce
APART = 0.16  # seconds between two bounces of one body, and between a bounce and an end of the clip
BETWEEN = 0.08  # seconds between the bounces of two bodies that do not meet


@dataclasses.dataclass(frozen=True)
class Bounce:
    """One bounce: time in seconds, which body, against what (a wall's name or "shape"), where (0..1 from left to right)
    and how fast across it. Two bodies that meet bounce twice, at one time.
    """

    time: float
    body: int
    against: str
    x: float
    speed: float


@dataclasses.dataclass(frozen=True)
class Flight:
    """knots (K,) seconds at which the bodies change course, the first one 0; places and velocities (K, bodies, 2)."""

    knots: np.ndarray
    places: np.ndarray
    velocities: np.ndarray
    bounces: tuple[Bounce, ...]

    def at(self, times: np.ndarray) -> np.ndarray:
        """Centres at `times` (F,): (bodies, F, 2)."""
        knot = np.searchsorted(self.knots, times, side="right") - 1
        since = (times - self.knots[knot])[:, None, None]
        return np.moveaxis(self.places[knot] + self.velocities[knot] * since, 0, 1)


def draw_flight(rng: np.random.Generator, radii: np.ndarray, room: np.ndarray, seconds: float) -> Flight:
    """A random flight of bodies of `radii` (bodies,) in `room` (2,) whose every bounce can be seen and heard alone.

    Starts are drawn until no bounce is too slow, or too near to another or to an end of the clip.
    """
    while True:
        places = rng.uniform(radii[:, None] + 0.01, room - radii[:, None] - 0.01)
        if len(radii) == 2 and np.linalg.norm(places[0] - places[1]) < radii.sum() + 0.02:
            continue
        heading, speed = rng.uniform(0, 2 * np.pi, len(radii)), rng.uniform(*SPEEDS, len(radii))
        velocities = speed[:, None] * np.stack([np.cos(heading), np.sin(heading)], -1)
        flight = _fly(places, velocities, radii, room, seconds)
        if flight is not None:
            return flight


def _fly(place: np.ndarray, velocity: np.ndarray, radii: np.ndarray, room: np.ndarray, seconds: float) -> Flight | None:
    """The flight, or None as soon as a bounce is not apart from all else."""
    now, knots, bounces = 0.0, [(0.0, place, velocity)], []
    last = np.full(len(radii), 0.0)  # the latest bounce of every body
    while True:
        wait, hit = _next(place, velocity, radii, room)
        if now + wait > seconds:
            return Flight(*(np.array(x) for x in zip(*knots, strict=True)), tuple(bounces))
        hitters = [0, 1] if hit is None else [hit[0]]
        if now + wait > seconds - APART or now + wait - last[hitters].max() < APART or (now and wait < BETWEEN):
            return None
        now, place, velocity = now + wait, place + velocity * wait, velocity.copy()
        if hit is None:
            normal = (place[1] - place[0]) / np.linalg.norm(place[1] - place[0])
            closing = float((velocity[0] - velocity[1]) @ normal)
            velocity += closing * np.stack([-normal, normal])
            met = [(body, "shape", closing / 2) for body in range(2)]
        else:
            body, axis = hit
            met = [(body, WALLS[2 * axis + int(velocity[hit] > 0)], abs(float(velocity[hit])))]
            velocity[hit] *= -1
        if met[0][2] < SLOWEST_BOUNCE:
            return None
        last[hitters] = now
        bounces += [Bounce(now, body, what, float(place[body, 0] / room[0]), speed) for body, what, speed in met]
        knots.append((now, place, velocity))


def _next(
    place: np.ndarray, velocity: np.ndarray, radii: np.ndarray, room: np.ndarray
) -> tuple[float, tuple[int, int] | None]:
    """Seconds until the next bounce, and (body, axis) of a wall's, None of the two bodies'."""
    edge = np.where(velocity > 0, room - radii[:, None], radii[:, None])
    waits = (edge - place) / np.where(velocity == 0, 1e-12, velocity)
    body, axis = np.unravel_index(np.argmin(waits), waits.shape)
    wall = float(waits[body, axis])
    if len(radii) == 2:
        gap, closing = place[1] - place[0], velocity[1] - velocity[0]
        a, b, c = closing @ closing, gap @ closing, gap @ gap - radii.sum() ** 2
        if b < 0 and b * b > a * c and (meet := float((-b - np.sqrt(b * b - a * c)) / a)) < wall:
            return meet, None
    return wall, (int(body), int(axis))
