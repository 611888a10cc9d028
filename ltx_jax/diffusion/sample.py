"""The sampler: one compiled program that takes video and audio from noise to latents (spec sampling.md 6 and 7).

`run` is a `fori_loop` with traced bounds over padded arrays and calls nothing on the host: progress, previews and
cancelling call the same program in pieces. Letters: B batch, T tokens, C channels, L blocks.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ltx_jax.diffusion import guidance
from ltx_jax.diffusion.conditioning import blend
from ltx_jax.diffusion.plan import make_plan
from ltx_jax.diffusion.state import Call, GuidanceScales, SamplerState, SamplingPlan, StreamState, make_track, tile
from ltx_jax.diffusion.steppers import STEPPERS, Noise, Prediction, draw
from ltx_jax.diffusion.tiled import in_tiles
from ltx_jax.streams import MODALITIES, Array, Stream, length_mask

__all__ = [
    "GuidanceScales", "PredictVelocity", "PredictX0", "SamplerState", "SamplingPlan", "StreamState", "denoise",
    "make_plan", "make_track", "prepare", "run",
]  # fmt: skip

# (video stream, audio stream, names of the passes in their rows, which attentions each of these runs (4, L, passes) or
# None for all) -> a tensor of each stream. Contexts are bound inside; the rows are pass-major: all samples of the
# first pass, then all of the second.
PredictVelocity = Callable[
    [Stream | None, Stream | None, tuple[str, ...], Array | None], tuple[Array | None, Array | None]
]
PredictX0 = PredictVelocity  # x0 predictions in the place of velocities
# The same for plans that reuse blocks, with one more argument and result: what the blocks are taken to add to the
# tokens of each stream, (rows, T, D), or None to run them; and what they added.
PredictReusing = Callable[..., tuple[tuple[Array | None, Array | None], tuple[Array | None, Array | None]]]


BLOCKS = "blocks."  # before the name of a pass: what the transformer's blocks added to its tokens, in a track's memory


def prepare(
    state: SamplerState,
    plan: SamplingPlan,
    keys: Callable[[str], Array] | None = None,
    widths: Mapping[str, int] | None = None,
    dtype: Any = jnp.float32,
) -> SamplerState:
    """The state with what the plan's steps carry: memories, empty yet, and for steppers that draw noise its keys.

    keys: those of a modality, one per sample (B,); needed where the stepper draws from them. widths, dtype: of the
    tokens in the transformer's blocks by modality; needed where the plan reuses what these add.
    """
    stepper = STEPPERS[plan.stepper]
    memory = (*stepper.memory, *(("guided", *stepper.forces) if plan.skips else ()))

    def ready(name: str, track: StreamState) -> StreamState:
        scales = getattr(plan, name)
        kept = (*memory, "direction") if scales is not None and scales.rule == "apg_stateful" else memory
        kept = (*kept, "text") if scales is not None and plan.reuses_text else kept
        zeros = {name: jnp.zeros(track.latent.shape, jnp.float32) for name in kept}
        for added in sorted({BLOCKS + p for call in plan.calls for p in call.passes}) if plan.reuses_blocks else ():
            zeros[added] = jnp.zeros((*track.latent.shape[:2], (widths or {})[name]), dtype)
        drawn = jax.random.key_data(keys(name)) if keys and stepper.noisy else None
        return track.replace(keys=drawn).remembering(**zeros)

    return state.changed(ready)


def run(
    predict: PredictX0 | PredictReusing,
    state: SamplerState,
    plan: SamplingPlan,
    start: Array | int,
    stop: Array | int,
    noise: Noise = draw,
) -> SamplerState:
    """Steps [start, stop) of the plan. Steps may be traced; running in pieces gives the same bits as running whole.

    predict: a PredictReusing where the plan reuses blocks. state: as `prepare` gives it. noise: where the steps that
    add noise have it from.
    """

    predict = predict if plan.tiles is None else in_tiles(predict, plan.tiles)

    def step(i: Array, state: SamplerState) -> SamplerState:
        at = lambda state, sigma: denoise(predict, state, plan, i, sigma)
        return STEPPERS[plan.stepper].step(at, state, plan, i, noise)

    return jax.lax.fori_loop(start, stop, step, state)


def denoise(
    predict: PredictX0 | PredictReusing, state: SamplerState, plan: SamplingPlan, i: Array, sigma: Array
) -> tuple[SamplerState, dict[str, Prediction]]:
    """Guided and blended predictions of the moving tracks at `sigma` in step i, and the state that remembers them."""
    branches = [
        functools.partial(_denoise, predict, state, plan, call, keep, i, sigma)
        for call, keep in zip(plan.calls, plan.keep, strict=True)
    ]
    found = branches[0]() if len(branches) == 1 else jax.lax.switch(plan.call[i], branches)

    def remember(name: str, track: StreamState) -> StreamState:
        return track.remembering(**{k: v for k, v in found[name].items() if k in track.memory})

    def prediction(name: str, track: StreamState) -> Prediction:
        guided = found[name]["guided"]
        return Prediction(blend(guided, track.clean, track.mask), guided, found[name].get("uncond"))

    return state.changed(remember), {name: prediction(name, track) for name, track in state.moving.items()}


def _denoise(
    predict: PredictX0, state: SamplerState, plan: SamplingPlan, call: Call, keep: Array | None, i: Array, sigma: Array
) -> dict[str, dict[str, Array]]:
    """What one kind of step finds for each moving track: "guided", and what its stepper and guidance need beside."""
    passes, added = _passes(predict, state, plan, call, keep, sigma)
    found = {}
    for name, track in state.moving.items():
        if name not in call.runs:
            found[name] = dict(track.memory)
            continue
        found[name] = _guide(track, passes[name], getattr(plan, name), i, plan.whole_batch)
        for forced in STEPPERS[plan.stepper].forces:
            found[name][forced] = passes[name][forced]
        found[name] |= added.get(name, {})
    if len(plan.calls) == 1:
        return found
    kept = ("guided", "direction", "text", *STEPPERS[plan.stepper].forces)  # all branches return the same
    return {name: {k: v for k, v in own.items() if k in kept or k.startswith(BLOCKS)} for name, own in found.items()}


def _passes(
    predict: Any, state: SamplerState, plan: SamplingPlan, call: Call, keep: Array | None, sigma: Array
) -> tuple[dict[str, dict[str, Array]], dict[str, dict[str, Array]]]:
    """x0 predictions of both modalities at `sigma`, by pass name; an absent modality has none (6.3).

    And where the plan reuses blocks, what they added in every pass, under the names of the moving tracks' memory.
    """
    held = lambda track: {k: v for k, v in track.memory.items() if k.startswith(BLOCKS)}
    added = {name: held(track) for name, track in state.moving.items()} if plan.reuses_blocks else {}
    if not call.runs:
        return {}, added
    streams = {name: track.at(sigma).replace(enabled=name in call.runs) for name, track in state.tracks.items()}
    groups = [call.passes] if plan.batched else [(name,) for name in call.passes]
    found: dict[str, dict[str, Array]] = {name: {} for name in streams}
    for names in groups:
        columns = [call.passes.index(name) for name in names]
        rows = (tile(streams.get(name), len(names)) for name in MODALITIES)
        arguments = (*rows, names, None if keep is None else keep[:, :, jnp.asarray(columns)])
        if plan.reuses_blocks:
            last = tuple(
                jnp.concatenate([added[m][BLOCKS + name] for name in names]) if m in added else None for m in MODALITIES
            )
            predicted, changes = predict(*arguments, last if call.reuses else None)
            for m, change in zip(MODALITIES, changes, strict=True):
                if m in added and change is not None and not call.reuses:
                    added[m] |= zip((BLOCKS + n for n in names), jnp.split(change, len(names)), strict=True)
        else:
            predicted = predict(*arguments)
        for name, x0 in zip(MODALITIES, predicted, strict=True):
            if name in streams and x0 is not None:
                found[name].update(zip(names, jnp.split(x0, len(names)), strict=True))  # each (B, T, C)
    return found, added


def _guide(
    track: StreamState, passes: dict[str, Array], scales: GuidanceScales | None, i: Array, whole: bool
) -> dict[str, Array]:
    """The guided x0 of a modality as "guided", and what guidance remembers: "direction" of the stateful rule, "text",
    the difference between the texts, for steps that do not ask for it.
    """
    kept = {k: v for k, v in track.memory.items() if k in ("direction", "text")}
    if "text" in kept:
        cond = passes["cond"].astype(jnp.float32)
        kept["text"] = cond - passes["uncond"].astype(jnp.float32) if "uncond" in passes else kept["text"]
        passes = {**passes, "uncond": cond - kept["text"]}
    if scales is None or len(passes) == 1:
        return {"guided": passes["cond"].astype(jnp.float32), **kept}
    at = jax.tree.map(lambda strength: strength[i], scales)
    batch, tokens, _ = track.latent.shape
    mask = length_mask(track.stream.length, batch, tokens)[..., None]
    text = None
    if "uncond" in passes and scales.rule != "cfg":
        cond, uncond = passes["cond"], passes["uncond"]
        projection = {"eta": at.eta, "norm_threshold": at.norm_threshold, "mask": mask}
        if scales.rule == "cfg_star":
            text = guidance.cfg_star(cond, uncond, at.cfg_scale, mask)
        elif scales.rule == "apg":
            text = guidance.apg(cond, uncond, at.cfg_scale, **projection)
        else:
            kept["direction"] = guidance.averaged(cond - uncond, track.memory["direction"], at.momentum, i == 0)
            text = cond + at.cfg_scale * guidance.projected(kept["direction"], cond, **projection)
    strengths = (at.cfg_scale, at.stg_scale, at.modality_scale, at.rescale_scale)
    guided = guidance.multimodal(passes, *strengths, text=text, mask=mask, whole_batch=whole)
    return {"guided": guided.astype(jnp.float32), **kept}
