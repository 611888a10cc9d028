"""Recorded cases of training (spec training.md). Latents are recorded channels-first; draws are inputs."""

from collections.abc import Callable, Mapping
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
from ltx_jax.errors import UserError
from ltx_jax.streams import Array
from ltx_jax.training import losses, modes
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
    strategy = case.config["training_strategy"]
    if strategy.get("name", "text_to_video") != "flexible":
        raise UserError(f"The training strategy '{strategy.get('name')}' is not known yet.")
    mode = from_mapping(modes.Mode, {m: _stream_mode(strategy.get(m)) for m in ("video", "audio")}, "training_strategy")
    sigmas = from_mapping(
        objectives.SigmaConfig, {"mode": case.config["sampler"], **case.config["sampler_params"]}, "sampler_params"
    )
    outputs: Outputs = {}
    total: Array | float = 0.0
    for name, stream_mode in (("video", mode.video), ("audio", mode.audio)):
        if stream_mode is not None:
            loss = _stream(case, name, stream_mode, sigmas, outputs)
            total = total if loss is None else total + loss
    return {**outputs, "loss": total, "loss_mean": jnp.mean(jnp.asarray(total))}


def _stream_mode(block: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The official block without the folder that a recording does not have."""
    return None if block is None else {k: v for k, v in block.items() if k != "latents_dir"}


def _stream(
    case: Case, name: str, mode: modes.StreamMode, sigmas: objectives.SigmaConfig, outputs: Outputs
) -> Array | None:
    """Add the outputs of one stream; returns its loss per sample, None when it is frozen."""
    tokens, grid, positions = _tokens(case, name)
    draws = _draws(case, name, mode) if mode.is_generated else None
    masks = [None if c.mask_dir is None else case.inputs[c.mask_dir].reshape(tokens.shape[:2]) for c in mode.active]
    scale = tuple(case.config["scale_factors"][1:])
    noise = jax.jit(lambda x0, d, m: modes.noise_stream(mode, x0, d, grid, sigmas=sigmas, scale=scale, masks=tuple(m)))
    noisy = noise(tokens, draws, masks)
    index = jnp.zeros(tokens.shape[:2], int) if noisy.level_index is None else noisy.level_index
    outputs[f"{name}_latent"] = noisy.latent
    outputs[f"{name}_sigma"] = noisy.sigma
    outputs[f"{name}_timesteps"] = jnp.take_along_axis(noisy.levels, index, axis=1)
    outputs[f"{name}_positions"] = positions
    if noisy.targets is None or noisy.loss_mask is None:
        return None
    outputs[f"{name}_targets"] = noisy.targets
    outputs[f"{name}_loss_mask"] = noisy.loss_mask
    return losses.masked_loss(jnp.asarray(case.inputs[f"{name}_pred"]), noisy.targets, noisy.loss_mask)


def _tokens(case: Case, name: str) -> tuple[Array, Grid, np.ndarray]:
    recorded = case.inputs[f"{name}_latents"]
    batch = recorded.shape[0]
    if name == "audio":
        length = recorded.shape[2]
        tokens = geometry.patchify_audio(audio_from_recording(recorded))
        return jnp.asarray(tokens), (length, 1, 1), geometry.audio_positions(length, batch=batch)
    grid = (recorded.shape[2], recorded.shape[3], recorded.shape[4])
    fps = case.config.get("fps") or 24.0
    positions = geometry.video_positions(*grid, fps, tuple(case.config["scale_factors"]), batch=batch)
    return jnp.asarray(geometry.patchify_video(video_from_recording(recorded))), grid, positions


def _draws(case: Case, name: str, mode: modes.StreamMode) -> modes.Draws:
    def recorded(what: str) -> Array:  # a uniform sampler draws neither z nor q
        value = case.inputs.get(f"draw_{name}_{what}")
        return jnp.zeros(case.inputs[f"{name}_latents"].shape[0]) if value is None else jnp.asarray(value)

    conditions = tuple(recorded(f"condition_{i}_uniform") for i in range(len(mode.active)))
    return modes.Draws(*(recorded(what) for what in ("normal", "uniform", "mix", "noise")), conditions)


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
    optimizer = make_optimizer(config)
    params = {k: jnp.asarray(v) for k, v in case.inputs.items() if not k.startswith("grad_")}
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
    "prefix_and_suffix audio_prefix audio_suffix outpainting video_inpainting audio_inpainting"
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
