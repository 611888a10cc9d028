"""The grammar of captions: often only what there is, else also on which background, and what it hits."""

import numpy as np

from ltx_jax.data.raw.toy.motion import Bounce

PLAIN, STILL = 0.4, 0.7  # shares of captions that name bodies alone, and those or the scene, but no bounces


def caption(
    rng: np.random.Generator, colors: tuple[str, ...], shapes: tuple[str, ...], sizes: tuple[str, ...],
    background: str, bounces: tuple[Bounce, ...],
) -> str:  # fmt: skip
    """One sentence about a clip. A body of middle size has no word for it where the others do."""
    form = rng.random()
    if form < PLAIN:
        return plain(colors, shapes)
    text = scene(colors, shapes, sizes, background)
    return text if form < STILL else f"{text}; {_events(f'{colors[0]} {shapes[0]}', bounces)}"


def plain(colors: tuple[str, ...], shapes: tuple[str, ...]) -> str:
    """ "a red circle and a blue square": nothing is said of sizes and background."""
    return " and ".join(_one(f"{color} {shape}") for color, shape in zip(colors, shapes, strict=True))


def scene(colors: tuple[str, ...], shapes: tuple[str, ...], sizes: tuple[str, ...], background: str) -> str:
    """ "a big red circle and a blue square on a teal background": everything that stands still."""
    bodies = (" ".join(filter(None, names)) for names in zip(sizes, colors, shapes, strict=True))
    return f"{' and '.join(map(_one, bodies))} on a {background} background"


def _one(body: str) -> str:
    return f"{'an' if body.startswith('orange') else 'a'} {body}"


def _events(body: str, bounces: tuple[Bounce, ...]) -> str:
    """What the first body bounces off first, and how often."""
    hit = [bounce.against for bounce in bounces if bounce.body == 0]
    if not hit:
        return f"the {body} bounces off nothing"
    times = {1: "once", 2: "twice"}.get(hit.count(hit[0]), "several times")
    return f"the {body} bounces off {'the other shape' if hit[0] == 'shape' else f'the {hit[0]} wall'} {times}"
