"""Recorded runs of whole pipelines with a stand-in network and upsampler (spec sampling.md 4 to 8, 12)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.conformance.condition import item_of, tokens_of
from ltx_jax.conformance.sampler import StandIn, guidance_of, kept, method_of, nowhere, recorded_noise
from ltx_jax.diffusion import conditioning, geometry, items, sample
from ltx_jax.diffusion.conditioning import LatentState
from ltx_jax.pipelines.states import begin
from ltx_jax.streams import MODALITIES, Array, Stream, group_weights

Outputs = dict[str, Any]


def _pipeline(case: Case) -> Outputs:
    """Stages in order, each from what the one before made."""
    outputs: Outputs = {}
    before: dict[str, np.ndarray] = {}
    for n, stage in enumerate(case.config["stages"]):
        states = _begun(case, n, stage, before)
        ends = _run(case, n, stage, states)
        for name, end in ends.items():
            latent = _latent(case, name, conditioning.clear(end))
            outputs[f"stage{n}_{name}"] = before[name] = latent
            if end.slots:
                slots = np.asarray(items.generated_keyframes(end))  # (B, slots, H*W, C)
                slots = slots.reshape(*slots.shape[:2], *end.grid[1:], slots.shape[3])
                outputs[f"stage{n}_generated_keyframes"] = slots.transpose(0, 4, 1, 2, 3)
    return outputs


def _begun(case: Case, n: int, stage: dict[str, Any], before: dict[str, np.ndarray]) -> dict[str, LatentState]:
    """The states of a stage at its first noise level."""
    own, states = _stage_case(case, n, stage), {}
    for name, latent in _starts(case, stage, before).items():
        tokens, grid = tokens_of(latent)
        video, zeros = name == "video", jnp.zeros_like(tokens)
        empty = conditioning.initial_state(zeros, _positions(case.config, name, grid, len(latent)), grid, video=video)
        if video:
            held = [item_of(own, i, empty) for i in range(len(stage.get("items", [])))]
        else:
            held = [items.TimeRegion(item["start_time"], item["end_time"]) for item in stage.get("audio_items", [])]
        noise = jnp.asarray(case.inputs[f"stage{n}_{name}_noise"])
        frozen = not video and case.config["audio"] == "frozen"
        sigma = 1.0 if n == 0 else stage["sigmas"][0]
        states[name] = begin(empty, tokens, held, lambda count, width, noise=noise: noise, sigma, frozen=frozen)
    return states


def _starts(case: Case, stage: dict[str, Any], before: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the tokens of each modality are before noise, as recorded latents."""
    c, given = case.config, case.inputs
    rows, columns = (c[k] // stage["divide"] for k in ("height", "width"))
    grid = geometry.latent_shape(geometry.VideoShape(c["frames"], rows, columns, c["fps"]))
    channels, batch = given["stage0_video_noise"].shape[2], given["stage0_video_noise"].shape[0]
    if "video" in before:
        video = before["video"].repeat(2, axis=3).repeat(2, axis=4)  # the stand-in upsampler
    else:
        video = given.get("given_video", np.zeros((batch, channels, *grid), np.float32))
    if c["audio"] == "none":
        return {"video": video}
    silence = np.zeros((batch, 8, geometry.audio_length(c["frames"], c["fps"]), 16), np.float32)
    audio = before.get("audio", given.get("given_audio", silence))
    return {"video": video, "audio": given["given_audio"] if c["audio"] == "frozen" else audio}


def _positions(config: dict[str, Any], name: str, grid: conditioning.Grid, batch: int) -> np.ndarray:
    if name == "audio":
        return geometry.audio_positions(grid[0], batch=batch)
    return geometry.video_positions(*grid, config["fps"], batch=batch)


def _stage_case(case: Case, n: int, stage: dict[str, Any]) -> Case:
    """The stage's items as a case of conditioning has them."""
    names = {f"stage{n}_item{i}": f"item{i}_latent" for i in range(len(stage.get("items", [])))}
    inputs = {names.get(name, name.removeprefix(f"stage{n}_")): value for name, value in case.inputs.items()}
    config = {"fps": case.config["fps"], "scale_factors": geometry.SCALE_FACTORS, "items": stage.get("items", [])}
    return dataclasses.replace(case, inputs=inputs, config=config)


def _run(case: Case, n: int, stage: dict[str, Any], states: dict[str, LatentState]) -> dict[str, LatentState]:
    """The states after the stage's steps."""
    guides = [_guide(case, stage, m) if m in states else None for m in MODALITIES]
    settings = method_of({"method": stage.get("loop", "euler"), **stage})
    plan = sample.make_plan(
        np.asarray(stage["sigmas"]), *guides, blocks=case.config["num_blocks"], whole_batch=True, **settings
    )
    tracks = {m: sample.make_track(state, nowhere(state.latent.shape[1])) for m, state in states.items()}
    state = sample.prepare(sample.SamplerState(**tracks), plan)
    predict = StandIn(_formula(case, states, stage.get("guided", False))).predictor(_texts(case))
    noise = lambda kind, name, track, i: recorded_noise(case, f"stage{n}_{name}_{kind}_noise", track, i)
    run = jax.jit(lambda state: sample.run(predict, state, plan, 0, len(plan.sigmas) - 1, noise))
    return {m: states[m].replace(latent=track.latent) for m, track in run(state).tracks.items()}


def _guide(case: Case, stage: dict[str, Any], name: str) -> Any:
    frozen = name == "audio" and case.config["audio"] == "frozen"
    return guidance_of((case.config.get("guidance") or {}).get(name) if stage.get("guided") and not frozen else None)


def _texts(case: Case) -> Case:
    """The case without negative text of frozen sound, which reads the positive one in every pass."""
    if case.config["audio"] != "frozen":
        return case
    inputs = {name: value for name, value in case.inputs.items() if name != "audio_negative_context"}
    return dataclasses.replace(case, inputs=inputs)


def _formula(case: Case, states: dict[str, LatentState], guided: bool) -> Callable[..., Array]:
    """The stand-in network, which reads positions where the transformer reads rotary tables.

    Its factor for attentions that run is that of guided stages alone: the others were recorded without a keep array.
    """
    weights = jnp.asarray(case.inputs["keep_weight"])

    def x0(name: str, stream: Stream, other: Stream | None, text: Array, keep: Array | None) -> Array:
        x = stream.latent
        positions = states[name].positions
        positions = jnp.tile(jnp.asarray(positions), (len(x) // len(positions), 1, 1, 1))  # (rows, axes, N, 2)
        seen = jnp.mean(text, axis=1, keepdims=True)[:, :, : x.shape[2]]
        y = 0.6 * x + 0.2 * seen + 0.3 * stream.timesteps()[..., None] + 0.1 * stream.sigma[:, None, None]
        y += 0.1 * jnp.sin(positions[:, 0, :, :1])
        if name == "video":
            assert stream.keyframes is not None
            y += 0.05 * jnp.cos(0.01 * positions[:, 1, :, 1:]) + 0.1 * stream.keyframes[..., None]
        if stream.groups is not None and stream.weights is not None:
            y += 0.02 * (group_weights(stream.groups, stream.weights) @ x) / x.shape[1]
        y = y * kept(keep, weights) if guided else y
        return y if other is None else y + 0.05 * jnp.mean(other.latent, axis=(1, 2), keepdims=True)

    return x0


def _latent(case: Case, name: str, state: LatentState) -> np.ndarray:
    tokens = np.asarray(state.latent)
    if name == "audio":
        return geometry.unpatchify_audio(tokens, 8).transpose(0, 3, 1, 2)
    return geometry.unpatchify_video(tokens, *state.grid).transpose(0, 4, 1, 2, 3)


KINDS: dict[str, Callable[[Case], Outputs]] = {"diffusion.pipeline": _pipeline}
