"""Whether clips do what their prompts say, from what is seen and heard of them, and how far chance would come."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from ltx_jax.evaluation.hearing import Tone, listen
from ltx_jax.evaluation.prompts import Wanted
from ltx_jax.evaluation.sight import Seen, SeenBody, look

IN_STEP = 0.06  # seconds between a bounce and a tone that belong together
RELATED = 0.5  # seconds up to which the nearest tone says something of the offset
ATTRIBUTES = ("colour", "shape", "count", "size", "background")
SOUND = ("pitch", "timbre")


@dataclasses.dataclass(frozen=True)
class Observed:
    """A clip as it is seen and heard."""

    seen: Seen
    tones: tuple[Tone, ...]


def observe(video: np.ndarray, audio: np.ndarray, fps: float, rate: int) -> Observed:
    """Read a clip: video uint8 (F, h, w, 3) at fps, audio float32 (2, samples) at rate Hz."""
    return Observed(look(video, fps), listen(audio, rate))


def judge(wanted: Wanted, clip: Observed) -> dict[str, bool]:
    """By name whether the clip is right; what the prompt does not say, or silence cannot tell, is left out.

    `prompt` is all that the prompt names of the picture. pitch and timbre are of the tones that are heard.
    """
    scene, seen = wanted.scene, clip.seen
    bodies = _paired(wanted, seen)
    whole = len(bodies) == len(scene.colors)
    right = {
        "colour": whole and all(b.color == scene.colors[k] for k, b in bodies.items()),
        "shape": whole and all(b.shape == scene.shapes[k] for k, b in bodies.items()),
        "count": seen.count == len(scene.colors),
    }
    if wanted.names_scene:
        right["size"] = whole and all(b.size == scene.sizes[k] for k, b in bodies.items())
        right["background"] = seen.background == scene.background
    right["prompt"] = all(right.values())
    right["inside"] = seen.inside
    right["smooth"] = seen.moving and all(body.smooth for body in seen.bodies)
    return right | _of_sound(wanted, clip.tones)


def _paired(wanted: Wanted, seen: Seen) -> dict[int, SeenBody]:
    """The seen body that each wanted one is, so that as much as possible is right; missing ones are left out."""
    scene, places = wanted.scene, range(len(wanted.scene.colors))

    def right(order: Sequence[int]) -> int:
        pairs = [(k, seen.bodies[i]) for k, i in zip(places, order, strict=False)]
        return sum(2 * (b.color == scene.colors[k]) + (b.shape == scene.shapes[k]) for k, b in pairs)

    count = min(len(seen.bodies), len(places))
    orders = itertools.permutations(range(len(seen.bodies)), count)
    best = max(orders, key=right, default=())
    return {k: seen.bodies[i] for k, i in zip(places, best, strict=False)}


def _of_sound(wanted: Wanted, tones: Sequence[Tone]) -> dict[str, bool]:
    if not tones:
        return {}
    bodies = set(zip(wanted.scene.shapes, wanted.scene.colors, strict=True))
    right = {"pitch": all(t.shapes and set(t.shapes) <= {shape for shape, _ in bodies} for t in tones)}
    alone = [(t.shapes[0], t.color) for t in tones if t.color is not None]
    told_apart = len(set(wanted.scene.shapes)) == len(bodies)  # two bodies of one pitch sound at once where they meet
    return right | ({"timbre": set(alone) <= bodies} if alone and told_apart else {})


@dataclasses.dataclass(frozen=True)
class Step:
    """How bounces and tones go together: hits within 60 ms, of how many bounces or tones (of what there are more of),
    and for each bounce the milliseconds to the nearest tone, where there is one near.
    """

    hits: int
    total: int
    offsets: tuple[float, ...]


def in_step(clip: Observed) -> Step:
    """Match every bounce with the first tone in reach that no earlier bounce has."""
    bounces, tones = clip.seen.bounces, [tone.time for tone in clip.tones]
    free, hits, offsets = list(tones), 0, []
    for bounce in bounces:
        near = next((tone for tone in free if abs(tone - bounce) <= IN_STEP), None)
        if near is not None:
            free.remove(near)
            hits += 1
        nearest = min((abs(tone - bounce) for tone in tones), default=RELATED)
        offsets += [1000 * nearest] if nearest < RELATED else []
    return Step(hits, max(len(bounces), len(tones)), tuple(offsets))


def table(wanted: Sequence[Wanted], clips: Sequence[Observed]) -> dict[str, np.ndarray]:
    """Right or wrong of every clip by score, float64 (N,) with NaN where the score does not apply.

    `prompt` is of prompts of seen combinations, `prompt_unseen` of the others; sync_60ms is the share of bounces or
    tones of a clip that have their counterpart, with its weight in `sync_total`.
    """
    judged = [judge(w, clip) for w, clip in zip(wanted, clips, strict=True)]
    rows = {name: [j.get(name, np.nan) for j in judged] for name in (*ATTRIBUTES, "prompt", "inside", "smooth", *SOUND)}
    columns = {name: np.array(values, float) for name, values in rows.items()}
    unseen = np.array([w.unseen for w in wanted])
    columns["prompt_unseen"] = np.where(unseen, columns["prompt"], np.nan)
    columns["prompt"] = np.where(unseen, np.nan, columns["prompt"])
    steps = [in_step(clip) for clip in clips]
    total = np.array([step.total for step in steps], float)
    hits = np.array([step.hits for step in steps], float)
    return columns | {"sync_60ms": np.where(total > 0, hits / np.maximum(total, 1), np.nan), "sync_total": total}


def means(columns: dict[str, np.ndarray], rows: np.ndarray | None = None) -> dict[str, float]:
    """Every score's mean over the clips (of the numbers `rows` only), NaN where none of them says anything."""
    chosen = {name: column if rows is None else column[rows] for name, column in columns.items()}
    total = chosen.pop("sync_total")
    result = {}
    for name, column in chosen.items():
        weight = np.where(np.isnan(column), 0, total if name == "sync_60ms" else 1)
        result[name] = float(np.nansum(column * weight) / weight.sum()) if weight.sum() else float("nan")
    return result


def offset_ms(clips: Sequence[Observed]) -> float:
    """Median milliseconds between a bounce and the nearest tone; NaN where there are none."""
    offsets = [offset for clip in clips for offset in in_step(clip).offsets]
    return float(np.median(offsets)) if offsets else float("nan")


def chance(wanted: Sequence[Wanted], clips: Sequence[Observed], turns: int = 10) -> dict[str, float]:
    """The scores that the same clips reach with the prompts of other clips: what attributes come to by chance."""
    shifts = np.unique(np.linspace(1, max(1, len(clips) - 1), turns).astype(int))
    found = [means(table(wanted, [clips[(i + s) % len(clips)] for i in range(len(clips))])) for s in shifts]
    return {name: float(np.mean([f[name] for f in found])) for name in (*ATTRIBUTES, "prompt", "prompt_unseen", *SOUND)}


def interval(columns: dict[str, np.ndarray], draws: int = 500, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95% intervals of the means by bootstrap over the clips."""
    rng, count = np.random.default_rng(seed), len(columns["sync_total"])
    drawn = [means(columns, rng.integers(0, count, count)) for _ in range(draws)]
    edges = {name: np.nanquantile([d[name] for d in drawn], (0.025, 0.975)) for name in drawn[0]}
    return {name: (float(low), float(high)) for name, (low, high) in edges.items()}


def difference(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray], draws: int = 500, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Second minus first with its 95% interval, by bootstrap over the prompts that both were given."""
    rng, count = np.random.default_rng(seed), len(first["sync_total"])
    a, b = means(first), means(second)
    drawn = []
    for _ in range(draws):
        rows = rng.integers(0, count, count)
        x, y = means(first, rows), means(second, rows)
        drawn.append({name: y[name] - x[name] for name in x})
    edges = {name: np.nanquantile([d[name] for d in drawn], (0.025, 0.975)) for name in a}
    return {name: (b[name] - a[name], float(edges[name][0]), float(edges[name][1])) for name in a}
