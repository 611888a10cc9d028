"""Does a model hear its prompt: clips of one named shape, counted by the colour that they show."""

import itertools
from typing import Any

import numpy as np

from ltx_jax.data.raw.toyworld import COLORS, SHAPES
from ltx_jax.evaluation.toy import observe
from ltx_jax.media.images import contact_sheet
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.sampler import Sampler

MOVING = 0.1  # path, in widths, from which a clip counts as moving
TONAL = 0.5  # tonality from which a sound counts as no noise


def one_shape_prompts(count: int) -> list[tuple[str, str]]:
    """(prompt, colour named) pairs that run through all colours before repeating with the next shape."""
    pairs = itertools.cycle(itertools.product(SHAPES, COLORS))
    return [(f"a {color} {shape}", color) for shape, color in itertools.islice(pairs, count)]


def evaluate_prompts(
    sampler: Sampler,
    count: int = 64,
    seed: int = 0,
    *,
    steps: int | None = None,
    cfg: float | None = None,
    sheet: Any = None,
) -> dict[str, Any]:
    """Generate `count` clips and report the shares that show the named colour, move, and sound tonal."""
    wanted = one_shape_prompts(count)
    request = Request(tuple(prompt for prompt, _ in wanted), seed=seed, steps=steps, cfg=cfg)
    clips = sampler.generate(request, progress=True)
    seen = [observe(clip.video, clip.audio) for clip in clips]
    if sheet:
        contact_sheet([clip.video for clip in clips], sheet)
    right = [o.color == color for o, (_, color) in zip(seen, wanted, strict=True)]
    return {
        "prompts": count,
        "right_color": sum(right),
        "right_color_share": round(float(np.mean(right)), 3),
        "moving_share": round(float(np.mean([o.path > MOVING for o in seen])), 3),
        "tonal_share": round(float(np.mean([o.tonality > TONAL for o in seen])), 3),
        "audible_share": round(float(np.mean([o.loudness > 0.003 for o in seen])), 3),
    }
