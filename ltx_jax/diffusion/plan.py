"""Plans: what each step of a run does, as arrays of the host (spec sampling.md 5 and 6)."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from ltx_jax.diffusion.guidance import Guidance, GuidanceTable, keep_array, passes, skips
from ltx_jax.diffusion.state import Call, GuidanceScales, SamplingPlan
from ltx_jax.diffusion.steppers import STEPPERS, Stepper
from ltx_jax.diffusion.tiled import Tiles
from ltx_jax.errors import require
from ltx_jax.streams import MODALITIES, Array

STRENGTHS = tuple(f.name for f in dataclasses.fields(GuidanceScales) if f.name != "rule")


def make_plan(
    sigmas: np.ndarray,
    video: Guidance | GuidanceTable | None = None,
    audio: Guidance | GuidanceTable | None = None,
    *,
    blocks: int = 0,
    pad_to: int | None = None,
    batched: bool = True,
    whole_batch: bool = False,
    stepper: str = "euler",
    options: Mapping[str, float] | None = None,
    tiles: Tiles | None = None,
    reuse: float = 0.0,
) -> SamplingPlan:
    """The plan of a run along `sigmas` (steps + 1,); absent modalities have no guidance, None.

    blocks: of the transformer, needed where a pass skips attentions. pad_to: steps to pad the arrays to. options:
    numbers of the stepper that are not to be its defaults. tiles: in which the network sees the video. reuse: an angle
    within which blocks are reused, see `_reusing`; 0: never. Raises UserError when a schedule does not decrease or is
    longer than `pad_to`, for a stepper or an option that does not exist, or a block that is to be skipped but lacking.
    """
    chosen, numbers = _chosen(stepper, options or {})
    levels = _checked(chosen.levels(_checked(np.asarray(sigmas, np.float64))))
    steps = len(levels) - 1
    total = steps if pad_to is None else pad_to
    require(steps <= total, f"A schedule of {steps} steps does not fit a plan of {total}.")

    given = {name: guide for name, guide in (("video", video), ("audio", audio)) if guide is not None}
    guides = [{name: guide.at(float(sigma)) for name, guide in given.items()} for sigma in levels[:-1]]
    require(not reuse or tiles is None, "What blocks add cannot be reused where the network sees the video in tiles.")
    calls, keep, call = _calls(guides, chosen.forces, blocks, _reusing(levels, reuse))

    def padded(values: Sequence[float] | np.ndarray, to: int = total) -> Array:
        return jnp.asarray(np.pad(np.asarray(values, np.float32), (0, to - len(values))))

    def scales(name: str) -> GuidanceScales | None:
        if name not in given:
            return None
        numbers = {field: padded([getattr(guide[name], field) for guide in guides]) for field in STRENGTHS}
        return GuidanceScales(**numbers, rule=guides[0][name].rule)

    return SamplingPlan(
        sigmas=padded(levels, total + 1),
        call=padded(call).astype(jnp.int32),
        video=scales("video"),
        audio=scales("audio"),
        keep=keep,
        options={name: jnp.float32(number) for name, number in numbers.items()},
        coefficients={name: padded(values) for name, values in chosen.coefficients(levels, numbers).items()},
        tiles=tiles,
        calls=calls,
        batched=batched,
        whole_batch=whole_batch,
        stepper=stepper,
        reuses_text=not all(_asks_text(guides, chosen.forces)),
    )


def _chosen(stepper: str, options: Mapping[str, float]) -> tuple[Stepper, dict[str, float]]:
    """A stepper and its numbers. Raises UserError for one that does not exist."""
    require(stepper in STEPPERS, f"There is no stepper '{stepper}'; choose one of {', '.join(STEPPERS)}.")
    chosen = STEPPERS[stepper]
    for name in options:
        known = ", ".join(chosen.options) or "it has none"
        require(name in chosen.options, f"The stepper '{stepper}' has no option '{name}' (of options: {known}).")
    return chosen, {**chosen.options, **options}


def _reusing(levels: np.ndarray, within: float) -> list[bool]:
    """Which steps take what the transformer's blocks added last, instead of running them.

    Those whose noise level lies less than `within` from the last one that ran them, as an angle in radians (the
    tangent of which is s / a): the error of a step goes by its square in every family (families.md 2). Not the last.
    """
    require(within >= 0, f"The angle within which blocks are reused must not be negative, not {within}.")
    angles = np.arctan2(levels[:-1], 1 - levels[:-1])
    reusing, since = [False], angles[0]
    for i, angle in enumerate(angles[1:], start=1):
        reusing.append(bool(since - angle < within) and i < len(angles) - 1)
        since = since if reusing[-1] else angle
    return reusing


def _checked(sigmas: np.ndarray) -> np.ndarray:
    decreasing = len(sigmas) >= 2 and bool(np.all(np.diff(sigmas) < 0)) and sigmas[-1] >= 0
    require(decreasing, "The sigmas of a run must be at least two numbers that decrease and end at 0 or above.")
    return sigmas


def _calls(
    guides: Sequence[Mapping[str, Guidance]], forces: tuple[str, ...], blocks: int, reusing: Sequence[bool]
) -> tuple[tuple[Call, ...], tuple[Array | None, ...], list[int]]:
    """The distinct kinds of steps in the order they come, which attentions their passes run, and each step's kind.

    guides: of the present modalities, at each step. reusing: see `_reusing`.
    """
    kinds: dict[tuple[Call, bytes | None], tuple[int, np.ndarray | None]] = {}
    call = []
    for i, (step, asks) in enumerate(zip(guides, _asks_text(guides, forces), strict=True)):
        running = {name: guide for name, guide in step.items() if not skips(i, guide.skip_step)}
        video, audio = running.get("video"), running.get("audio")
        names = tuple(name for name in passes(video, audio, forces) if asks or name != "uncond")
        needed = Call(names, tuple(n for n in MODALITIES if n in running or n not in step), reusing[i])
        needed = needed if running or not step else Call((), ())
        keep = keep_array(needed.passes, video, audio, blocks)
        kind = (needed, None if keep is None else keep.tobytes())
        call.append(kinds.setdefault(kind, (len(kinds), keep))[0])
    keeps = tuple(None if keep is None else jnp.asarray(keep) for _, keep in kinds.values())
    return tuple(kind for kind, _ in kinds), keeps, call


def _asks_text(guides: Sequence[Mapping[str, Guidance]], forces: tuple[str, ...]) -> list[bool]:
    """Whether each step may ask for the unconditional pass; else what an earlier one found of it guides (`cfg_every`).

    A pass that is forced is asked for in every step.
    """
    asks, age = [], None  # steps since it was asked for, None where guidance by the text has not begun
    for i, step in enumerate(guides):
        wanting = [g.cfg_every for g in step.values() if g.needs("uncond") and not skips(i, g.skip_step)]
        age = 0 if age is None or age + 1 >= min(wanting, default=1) else age + 1
        asks.append(age == 0 or "uncond" in forces)
        age = age if wanting else None
    return asks
