"""Recorded cases of the mathematics of sampling (spec sampling.md). Recordings are channels-first; we transpose."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.diffusion import conditioning, geometry, guidance, objectives, res_2s, schedules, updates
from ltx_jax.diffusion.conditioning import LatentState
from ltx_jax.streams import Array

Outputs = dict[str, Any]


def _latent_shape(case: Case) -> Outputs:
    factors = tuple(case.config["scale_factors"])
    shapes = [geometry.VideoShape(int(f), int(h), int(w), fps) for f, h, w, fps in case.config["pixels"]]
    video = [geometry.latent_shape(s, factors) for s in shapes]
    back = [geometry.pixel_shape(v, s.fps, factors) for v, s in zip(video, shapes, strict=True)]
    return {
        "video": np.array(video),
        "video_tokens": np.prod(video, axis=1),
        "audio_frames": np.array([geometry.audio_length(s.frames, s.fps) for s in shapes]),
        "pixels_back": np.array([(s.frames, s.height, s.width) for s in back]),
    }


def _positions_video(case: Case) -> Outputs:
    c = case.config
    factors, grid = tuple(c["scale_factors"]), (c["frames"], c["height"], c["width"])
    cells = geometry.latent_bounds(*grid, patch_size=c["patch_size"], batch=c["batch"])
    return {
        "latent_bounds": cells,
        "pixel_bounds": geometry.pixel_bounds(cells, factors, causal_fix=c["causal_fix"]),
        "positions": geometry.video_positions(
            *grid, c["fps"], factors, causal_fix=c["causal_fix"], patch_size=c["patch_size"], batch=c["batch"]
        ),
    }


def _positions_audio(case: Case) -> Outputs:
    c = case.config
    positions = geometry.audio_positions(
        c["frames"],
        shift=c["shift"],
        causal=c["is_causal"],
        downsample=c["audio_latent_downsample_factor"],
        hop=c["hop_length"],
        rate=c["sample_rate"],
        batch=c["batch"],
    )
    return {"positions": positions}


def _positions_reference(case: Case) -> Outputs:
    latent = case.inputs["latent"]
    positions = geometry.audio_positions(latent.shape[2], batch=latent.shape[0])
    return {
        "tokens": geometry.patchify_audio(audio_from_recording(latent)),
        "positions": geometry.before_zero(positions, case.config["gap_seconds"]),
    }


def video_from_recording(latent: np.ndarray) -> np.ndarray:
    """(B, C, F, H, W) -> (B, F, H, W, C)."""
    return latent.transpose(0, 2, 3, 4, 1)


def audio_from_recording(latent: np.ndarray) -> np.ndarray:
    """(B, Z, A, f) -> (B, A, f, Z)."""
    return latent.transpose(0, 2, 3, 1)


def _patchify(case: Case) -> Outputs:
    latent = case.inputs["latent"]
    if case.config["modality"] == "audio":
        ours = jnp.asarray(audio_from_recording(latent))
        tokens = geometry.patchify_audio(ours)
        back = geometry.unpatchify_audio(tokens, latent.shape[1])
    else:
        ours, patch = jnp.asarray(video_from_recording(latent)), case.config["patch_size"]
        tokens = geometry.patchify_video(ours, patch)
        back = geometry.unpatchify_video(tokens, *latent.shape[2:], patch)
    exact = bool(jnp.array_equal(back, ours))
    return {"tokens": np.asarray(tokens) if exact else np.full(tokens.shape, np.nan)}


# --- schedules, conversions, steps ----------------------------------------------------------------------------------


def _ltx2(case: Case) -> Outputs:
    c = dict(case.config)
    default = c.pop("default_number_of_tokens", None)
    tokens = c.pop("tokens", None)
    return {"sigmas": schedules.ltx2(c.pop("steps"), default if tokens is None else tokens, **c)}


def _linear_quadratic(case: Case) -> Outputs:
    return {"sigmas": schedules.linear_quadratic(**case.config)}


def _beta(case: Case) -> Outputs:
    c = dict(case.config)
    return {"sigmas": schedules.beta(table_length=c.pop("timesteps_length"), **c)}


def _distilled(case: Case) -> Outputs:
    return {name: schedules.distilled(name) for name in case.outputs}


def _convert(case: Case) -> Outputs:
    x, x0, mask = _inputs(case, "sample", "denoised", "denoise_mask")
    velocity = objectives.velocity_from_x0(x, x0, case.config["sigma"])
    timesteps = mask * case.config["sigma"]
    back = objectives.x0_from_velocity(x, velocity, timesteps[..., 0])
    return {"velocity": velocity, "timesteps": timesteps, "denoised_from_velocity": back}


def _step_euler(case: Case) -> Outputs:
    sigmas = jnp.asarray(case.config["sigmas"], jnp.float32)
    i = case.config["step_index"]
    return {"next": updates.euler(*_inputs(case, "sample", "denoised"), sigmas[i], sigmas[i + 1])}


def _step_ancestral(case: Case) -> Outputs:
    sigmas, i = jnp.asarray(case.config["sigmas"], jnp.float32), case.config["step_index"]
    x, denoised, noise = _inputs(case, "sample", "denoised", "noise")
    options = {k: case.config[k] for k in ("eta", "s_noise")}
    return {"next": updates.euler_ancestral(x, denoised, sigmas[i], sigmas[i + 1], noise, **options)}


def _step_cfg_pp(case: Case) -> Outputs:
    sigmas, i = jnp.asarray(case.config["sigmas"], jnp.float32), case.config["step_index"]
    x, denoised, uncond, noise = _inputs(case, "sample", "denoised", "uncond", "noise")
    options = {k: case.config[k] for k in ("eta", "s_noise")}
    return {"next": updates.euler_cfg_pp(x, denoised, sigmas[i], sigmas[i + 1], uncond, noise, **options)}


def _step_res_2s(case: Case) -> Outputs:
    c = case.config
    sigma, sigma_next = (jnp.float32(s) for s in c["sigmas"][c["step_index"] : c["step_index"] + 2])
    x, moved, noise = _inputs(case, "sample", "deterministic_next", "noise")
    levels = jnp.asarray(case.inputs["denoise_mask"]) if c["per_token"] else jnp.ones((), jnp.float32)
    return {"next": res_2s.stochastic(x, moved, levels * sigma, levels * sigma_next, noise, c["eta"])}


def _res_2s_coefficients(case: Case) -> Outputs:
    found = res_2s.coefficients(np.asarray(case.config["h"], np.float64), case.config["c2"])
    return dict(zip(("a21", "b1", "b2"), found, strict=True))


def _normalise(case: Case) -> Outputs:
    (noise,) = _inputs(case, "noise")
    return {"normalized": res_2s.standardised(noise, jnp.ones((*noise.shape[:2], 1), bool))}


def _inputs(case: Case, *names: str) -> list[Array]:
    return [jnp.asarray(case.inputs[name]) for name in names]


# --- states ---------------------------------------------------------------------------------------------------------


def state_of(latent: np.ndarray, clean: np.ndarray, mask: np.ndarray) -> LatentState:
    """A state of recorded tokens alone: no positions, no grid."""
    batch, tokens, _ = latent.shape
    positions = np.zeros((batch, 1, tokens, 2), np.float32)
    return LatentState(*(jnp.asarray(a) for a in (latent, clean, mask)), positions, grid=(tokens, 1, 1))


def _noiser(case: Case) -> Outputs:
    state = state_of(*(case.inputs[k] for k in ("latent", "clean", "denoise_mask")))
    noised = conditioning.add_state_noise(state, *_inputs(case, "noise"), case.config["noise_scale"])
    return {"latent": noised.latent}


def _post_process(case: Case) -> Outputs:
    return {"blended": conditioning.blend(*_inputs(case, "denoised", "clean", "denoise_mask"))}


# --- guidance and loops ---------------------------------------------------------------------------------------------


def _guider(guide: Callable[..., Array]) -> Callable[[Case], Outputs]:
    def run(case: Case) -> Outputs:
        cond, other = _inputs(case, "cond", "uncond")
        guided = guide(cond, other, **case.config)
        return {"guided": guided, "delta": guided - cond}

    return run


def _apg_stateful(case: Case) -> Outputs:
    c = case.config
    average, deltas = jnp.zeros(()), []
    for i, (cond, uncond) in enumerate(zip(*_inputs(case, "cond", "uncond"), strict=True)):
        average = guidance.averaged(cond - uncond, average, c["momentum"], i == 0)
        deltas.append(c["scale"] * guidance.projected(average, cond, c["eta"], c["norm_threshold"]))
    return {"delta": jnp.stack(deltas)}


def _skip_step(case: Case) -> Outputs:
    steps = range(case.config["steps"])
    return {"skipped": np.array([[guidance.skips(i, skip) for i in steps] for skip in case.config["skip_steps"]])}


def _sigma_bins(case: Case) -> Outputs:
    return {"index": np.array([guidance.bin_of(s, case.config["keys"]) for s in case.config["sigmas"]])}


def _guidance_multimodal(case: Case) -> Outputs:
    recorded = dict(zip(("cond", "uncond_text", "uncond_perturbed", "uncond_modality"), guidance.PASSES, strict=True))
    predictions = {ours: jnp.asarray(case.inputs[k]) for k, ours in recorded.items() if k in case.inputs}
    scales = [case.config[k] for k in ("cfg_scale", "stg_scale", "modality_scale", "rescale_scale")]
    return {"guided": guidance.multimodal(predictions, *scales, whole_batch=True)}


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "diffusion.latent_shape": _latent_shape,
    "diffusion.positions.video": _positions_video,
    "diffusion.positions.audio": _positions_audio,
    "diffusion.patchify": _patchify,
    "diffusion.schedule.ltx2": _ltx2,
    "diffusion.schedule.linear_quadratic": _linear_quadratic,
    "diffusion.schedule.beta": _beta,
    "diffusion.schedule.distilled": _distilled,
    "diffusion.convert": _convert,
    "diffusion.step.euler": _step_euler,
    "diffusion.noiser": _noiser,
    "diffusion.post_process": _post_process,
    "diffusion.positions.audio_reference": _positions_reference,
    "diffusion.step.euler_ancestral": _step_ancestral,
    "diffusion.step.euler_cfg_pp": _step_cfg_pp,
    "diffusion.step.res2s": _step_res_2s,
    "diffusion.step.res2s_coefficients": _res_2s_coefficients,
    "diffusion.noise.normalize": _normalise,
    "diffusion.guidance.cfg": _guider(guidance.cfg),
    "diffusion.guidance.cfg_star": _guider(guidance.cfg_star),
    "diffusion.guidance.stg": _guider(guidance.stg),
    "diffusion.guidance.apg": _guider(guidance.apg),
    "diffusion.guidance.apg_stateful": _apg_stateful,
    "diffusion.guidance.skip_step": _skip_step,
    "diffusion.guidance.sigma_bins": _sigma_bins,
    "diffusion.guidance.multimodal": _guidance_multimodal,
}
