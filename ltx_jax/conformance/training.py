"""Recorded cases of training (spec training.md). Latents are recorded channels-first; draws are inputs."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ltx_jax.config import from_mapping
from ltx_jax.conformance.case import Case
from ltx_jax.conformance.diffusion import audio_from_recording, video_from_recording
from ltx_jax.diffusion import geometry, objectives
from ltx_jax.diffusion.conditioning import Grid
from ltx_jax.streams import Array
from ltx_jax.training import modes
from ltx_jax.training.dit import losses
from ltx_jax.training.dit import noise as noising
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig, learning_rate, make_optimizer

Outputs = dict[str, Any]


def _shifted_logit_normal(case: Case) -> Outputs:
    x = case.inputs
    rows = [
        objectives.shifted_logit_normal(
            int(n), *(x[k][i] for k in ("normal", "uniform", "mix")), **case.config["params"]
        )
        for i, n in enumerate(x["num_tokens"])
    ]
    return {"sigma": np.stack(rows), "mu": np.array([objectives.logit_shift(int(n)) for n in x["num_tokens"]])}


def _uniform(case: Case) -> Outputs:
    return {"sigma": objectives.uniform_sigma(jnp.asarray(case.inputs["uniform"]), **case.config["params"])}


# --- modes ----------------------------------------------------------------------------------------------------------


def _mode(case: Case) -> Outputs:
    mode = modes.mode_from_official(case.config["training_strategy"])
    sigmas = from_mapping(
        objectives.SigmaConfig, {"mode": case.config["sampler"], **case.config["sampler_params"]}, "sampler_params"
    )
    outputs: Outputs = {}
    total: Array | float = 0.0
    for name in ("video", "audio"):
        stream_mode = mode.stream(name)
        if stream_mode is not None:
            shared = outputs["video_sigma"] if mode.shared_sigma and name == "audio" else None
            loss = _stream(case, name, stream_mode, sigmas, shared, outputs)
            total = total if loss is None else total + loss
    return {**outputs, "loss": total, "loss_mean": jnp.mean(jnp.asarray(total))}


def _stream(
    case: Case,
    name: str,
    mode: modes.StreamMode,
    sigmas: objectives.SigmaConfig,
    shared_sigma: Array | None,
    outputs: Outputs,
) -> Array | None:
    """Add the outputs of one stream; returns its loss per sample, None when it is frozen."""
    tokens, grid, positions = _tokens(case, name, f"{name}_latents")
    reference, beside = None, positions
    if mode.reference is not None:
        reference, _, beside = _tokens(case, name, f"reference_{name}_latents")
    masks = {c.mask_dir: case.inputs[c.mask_dir].reshape(tokens.shape[:2]) for _, c in mode.active if c.mask_dir}
    options = {"sigmas": sigmas, "scale": tuple(case.config["scale_factors"][1:])}
    arrays = {"masks": masks, "reference": reference, "sigma": shared_sigma}
    noise = jax.jit(lambda x0, draws, arrays: noising.noise_stream(mode, x0, draws, grid, **options, **arrays))
    noisy = noise(tokens, _draws(case, name, mode), arrays)
    index = jnp.zeros(tokens.shape[:2], int) if noisy.level_index is None else noisy.level_index
    order = _recorded_order(noisy, tokens.shape[1])
    outputs[f"{name}_latent"] = noisy.latent[:, order]
    outputs[f"{name}_sigma"] = noisy.sigma
    outputs[f"{name}_timesteps"] = jnp.take_along_axis(noisy.levels, index, axis=1)[:, order]
    both = positions if reference is None else np.concatenate([positions, beside], axis=2)
    outputs[f"{name}_positions"] = both[:, :, order]
    if noisy.targets is None or noisy.loss_mask is None:
        return None
    mask = np.zeros(noisy.latent.shape[:2], bool)
    mask[:, : tokens.shape[1]] = noisy.loss_mask
    outputs[f"{name}_targets"] = noisy.targets
    outputs[f"{name}_loss_mask"] = mask[:, order]
    return losses.masked_loss(jnp.asarray(case.inputs[f"{name}_pred"]), noisy.targets, jnp.asarray(mask[:, order]))


def _recorded_order(noisy: noising.NoisyStream, tokens: int) -> np.ndarray:
    """Ours: target, then reference, which is padding where unused. Recorded: reference in front, or not at all."""
    every = np.arange(noisy.latent.shape[1])
    if noisy.length is None or int(noisy.length[0]) == tokens:
        return every[:tokens]
    return np.roll(every, len(every) - tokens)


def _tokens(case: Case, name: str, key: str) -> tuple[Array, Grid, np.ndarray]:
    """Tokens, grid and positions of a recorded latent; those of a reference are placed beside their target."""
    recorded, c = case.inputs[key], case.config
    batch = recorded.shape[0]
    if name == "audio":
        length = recorded.shape[2]
        tokens = geometry.patchify_audio(audio_from_recording(recorded))
        return jnp.asarray(tokens), (length, 1, 1), geometry.audio_positions(length, batch=batch)
    grid = (recorded.shape[2], recorded.shape[3], recorded.shape[4])
    tokens = jnp.asarray(geometry.patchify_video(video_from_recording(recorded)))
    fps, factors = c.get("fps") or 24.0, tuple(c["scale_factors"])
    if not key.startswith("reference"):
        return tokens, grid, geometry.video_positions(*grid, fps, factors, batch=batch)
    positions = geometry.reference_positions(
        grid, c.get("reference_fps") or fps, factors, first_end=1 / fps, batch=batch,
        downscale=c.get("reference_spatial_factor", 1), temporal=c.get("reference_temporal_factor", 1),
    )  # fmt: skip
    return tokens, grid, positions


def _draws(case: Case, name: str, mode: modes.StreamMode) -> noising.Draws:
    batch = case.inputs[f"{name}_latents"].shape[0]

    def recorded(what: str) -> Array:  # a uniform sampler draws neither z nor q, a reference once for all samples
        value = case.inputs.get(f"draw_{name}_{what}", np.zeros(batch))
        return jnp.broadcast_to(value, (batch,)) if value.ndim == 0 else jnp.asarray(value)

    conditions = [recorded(f"condition_{i}_uniform") for i in range(len(mode.conditions))]
    first = case.inputs.get("draw_first_frame_uniform")  # of the legacy strategies
    if first is not None and name == "video":
        pairs = zip(mode.conditions, conditions, strict=True)
        conditions = [jnp.asarray(first) if c.type == "first_frame" else drawn for c, drawn in pairs]
    return noising.Draws(*(recorded(what) for what in ("normal", "uniform", "mix", "noise")), tuple(conditions))


# --- losses and optimizer -------------------------------------------------------------------------------------------


def _masked_loss(case: Case) -> Outputs:
    loss = losses.masked_loss(*(jnp.asarray(case.inputs[k]) for k in ("pred", "targets", "loss_mask")))
    return {"loss": loss, "loss_mean": jnp.mean(loss)}


def _sigma_buckets(case: Case) -> Outputs:
    boundaries = tuple(case.config.get("boundaries") or losses.SIGMA_BOUNDARIES)
    sigma, loss = jnp.asarray(case.inputs["sigma"]), jnp.asarray(case.inputs["loss"])
    means, counts = (np.asarray(a) for a in losses.sigma_buckets(sigma, loss, boundaries))
    names = losses.bucket_names(boundaries)
    hit = {name: mean for name, mean, count in zip(names, means, counts, strict=True) if count > 0}
    reported = [hit[name] for name in case.config["names"] if name in hit]
    return {"bucket_loss": np.array(reported, np.float32)}


def _adamw(case: Case) -> Outputs:
    c = case.config
    config = OptimizerConfig(
        learning_rate=c["learning_rate"], b1=c["betas"][0], b2=c["betas"][1], eps=c["eps"],
        weight_decay=c["weight_decay"], max_grad_norm=c["max_grad_norm"], schedule=ScheduleConfig("constant"),
    )  # fmt: skip
    params = {k: jnp.asarray(v) for k, v in case.inputs.items() if not k.startswith("grad_")}
    optimizer = make_optimizer(config, {name: (None,) * x.ndim for name, x in params.items()})
    names, state, norms, outputs = list(params), optimizer.init(params), [], {}
    for i in range(len(case.outputs["grad_norm"])):
        grads = {k: jnp.asarray(case.inputs[f"grad_{k}_{i}"]) for k in names}
        norms.append(optax.global_norm(grads))
        updates, state = optimizer.update(grads, state, params)
        params = cast(dict[str, Array], optax.apply_updates(params, updates))
        outputs |= {f"{k}_{i}": params[k] for k in names}
    return {**outputs, "grad_norm": np.array(norms)}


def _lr_schedule(case: Case) -> Outputs:
    c = case.config
    steps = np.arange(case.outputs["lr"].shape[1])
    rows = []
    for scheduler in c["schedulers"]:
        schedule = from_mapping(ScheduleConfig, {"type": scheduler["type"], **scheduler["params"]}, "scheduler_params")
        config = OptimizerConfig(learning_rate=c["learning_rate"], steps=c["steps"], schedule=schedule)
        rows.append(1000 * learning_rate(config, steps))  # recorded times 1000
    return {"lr": np.stack(rows)}


_MODES = (
    "t2v_av t2v_uniform_nofps i2v i2v_image t2a a2v v2a v2a_conditions_ignored video_prefix video_suffix "
    "prefix_and_suffix audio_prefix audio_suffix outpainting video_inpainting audio_inpainting "
    "v2v_reference v2v_reference_scaled a2a_reference av2av_reference legacy_text_to_video legacy_video_to_video"
)

KINDS: dict[str, Callable[[Case], Outputs]] = {
    "training.timestep.shifted_logit_normal": _shifted_logit_normal,
    "training.timestep.uniform": _uniform,
    "training.loss.masked": _masked_loss,
    "training.sigma_buckets": _sigma_buckets,
    "training.optimizer.adamw": _adamw,
    "training.lr_schedule": _lr_schedule,
    **{f"training.mode.{name}": _mode for name in _MODES.split()},
}
