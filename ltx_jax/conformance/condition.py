"""Recorded cases of conditioning: items on states, masks, references (spec sampling.md 8, training.md 7.4 to 7.6)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.conformance.diffusion import audio_from_recording, video_from_recording
from ltx_jax.data.preparation.tiled import encode_in_tiles
from ltx_jax.diffusion import conditioning, geometry, items, masks
from ltx_jax.diffusion.conditioning import Grid, LatentState
from ltx_jax.errors import UserError
from ltx_jax.streams import Array

Outputs = dict[str, Any]


def _condition(case: Case) -> Outputs:
    """The state before and after the items, noised, and the denoised tokens with the conditioning cleared."""
    c = case.config
    state = _initial_state(case)
    after = state
    for i in range(len(c["items"])):
        after = item_of(case, i, state).apply(after)
    outputs = {**_fields("before", state, c["sigma"]), **_fields("after", after, c["sigma"])}
    noise, denoised = (jnp.asarray(case.inputs[k]) for k in ("noise", "denoised_tokens"))
    outputs["noised_latent"] = conditioning.add_state_noise(after, noise, c["noise_scale"]).latent
    final = after.replace(latent=denoised)
    target = np.asarray(conditioning.clear(final).latent)
    if len(c["shape"]) == 4:
        outputs["result_latent"] = geometry.unpatchify_audio(target, c["shape"][1]).transpose(0, 3, 1, 2)
        return outputs
    outputs["result_latent"] = geometry.unpatchify_video(target, *state.grid).transpose(0, 4, 1, 2, 3)
    if after.slots:
        slots = np.asarray(items.generated_keyframes(final))  # (B, slots, H*W, C)
        slots = slots.reshape(*slots.shape[:2], *state.grid[1:], slots.shape[3])
        outputs["result_generated_keyframes"] = slots.transpose(0, 4, 1, 2, 3)
    return outputs


def _initial_state(case: Case) -> LatentState:
    c, shape = case.config, case.config["shape"]
    latent = case.inputs["initial_latent"] if c["initial"] else np.zeros(shape, np.float32)
    tokens, grid = tokens_of(latent)
    if len(shape) == 4:
        positions = geometry.audio_positions(shape[2], batch=shape[0])
        return conditioning.initial_state(tokens, positions, grid, video=False)
    factors, causal = tuple(c["scale_factors"]), c["causal_fix"]
    positions = geometry.video_positions(*grid, c["fps"], factors, causal_fix=causal, batch=shape[0])
    return conditioning.initial_state(tokens, positions, grid, video=True)


def tokens_of(latent: np.ndarray) -> tuple[Array, Grid]:
    """Tokens and grid of a recorded latent of either modality."""
    if latent.ndim == 4:
        return jnp.asarray(geometry.patchify_audio(audio_from_recording(latent))), (latent.shape[2], 1, 1)
    grid = (latent.shape[2], latent.shape[3], latent.shape[4])
    return jnp.asarray(geometry.patchify_video(video_from_recording(latent))), grid


def item_of(case: Case, i: int, state: LatentState) -> items.Item:
    """The i-th item of a recorded case, for a state as it is before all items."""
    item = case.config["items"][i]
    latent = case.inputs.get(f"item{i}_latent")
    tokens, grid = (None, (0, 0, 0)) if latent is None else tokens_of(latent)
    made = ITEMS.get(item["type"])
    if made is None:
        raise UserError(f"The conditioning item '{item['type']}' is not known yet.")
    result = made(case, i, item, tokens, grid, state)
    weight = item.get("attention")
    if weight is None:
        return result
    return items.Weighted(result, case.inputs[f"item{i}_attention"] if weight == "tensor" else weight)


def _latent_index(case, i, item, tokens, grid, state) -> items.Item:
    return conditioning.LatentAtIndex(tokens, item["latent_idx"], item.get("strength", 1.0))


def _prefix_or_suffix(case, i, item, tokens, grid, state) -> items.Item:
    start = 0 if item["type"] == "prefix" else state.grid[0] - grid[0]
    return conditioning.LatentAtIndex(tokens, start, item.get("strength", 1.0))


def _keyframe(case, i, item, tokens, grid, state) -> items.Item:
    c = case.config
    positions = geometry.keyframe_positions(
        grid, item["frame_idx"], c["fps"], tuple(c["scale_factors"]), pixel_frames=item.get("num_pixel_frames", 1)
    )
    return items.Appended(tokens, positions, item.get("strength", 1.0))


def _keyframe_slots(case, i, item, tokens, grid, state) -> items.Item:
    c, frames = case.config, tuple(item["pixel_frame_indices"])
    one = lambda frame: geometry.keyframe_positions((1, *state.grid[1:]), frame, c["fps"], tuple(c["scale_factors"]))
    seeds = tokens_of(case.inputs[f"item{i}_initial_keyframes"])[0] if item.get("initial") else None
    return items.KeyframeSlots(frames, np.concatenate([one(frame) for frame in frames], axis=2), seeds)


def _reference_video(case, i, item, tokens, grid, state) -> items.Item:
    c, temporal = case.config, item.get("temporal_scale_factor", 1)
    positions = geometry.reference_positions(
        grid, c["fps"] / temporal, tuple(c["scale_factors"]), first_end=1 / c["fps"],
        downscale=item.get("downscale_factor", 1), temporal=temporal,
    )  # fmt: skip
    return items.Appended(tokens, positions, item.get("strength", 1.0))


def _reference_audio(case, i, item, tokens, grid, state) -> items.Item:
    positions = geometry.audio_positions(grid[0])
    positions = geometry.before_zero(positions) if item.get("negative_positions") else positions
    return items.Appended(tokens, positions, item.get("strength", 1.0))


def _mask(case, i, item, tokens, grid, state) -> items.Item:
    recorded = case.inputs[f"item{i}_mask"]
    keep = recorded.reshape(tokens.shape[0], -1)
    if keep.shape[1] != tokens.shape[1]:  # sound: another length than the latent's
        keep = np.stack([masks.audio_mask(row, tokens.shape[1]) for row in keep])
    return items.Masked(tokens, keep, item.get("strength", 1.0))


def _spatial_crop(case, i, item, tokens, grid, state) -> items.Item:
    keep = conditioning.select_crop(grid, tuple(item["region"]), tuple(case.config["scale_factors"][1:]))
    return items.Masked(tokens, keep[None], item.get("strength", 1.0))


def _temporal_region(case, i, item, tokens, grid, state) -> items.Item:
    return items.TimeRegion(item["start_time"], item["end_time"])


ITEMS: dict[str, Callable[..., items.Item]] = {
    "latent_index": _latent_index,
    "prefix": _prefix_or_suffix,
    "suffix": _prefix_or_suffix,
    "keyframe": _keyframe,
    "keyframe_slots": _keyframe_slots,
    "reference_video": _reference_video,
    "reference_audio": _reference_audio,
    "mask": _mask,
    "spatial_crop": _spatial_crop,
    "temporal_region": _temporal_region,
}


def _fields(prefix: str, state: LatentState, sigma: float) -> Outputs:
    fields = {
        "latent": state.latent,
        "clean": state.clean,
        "denoise_mask": state.mask,
        "positions": state.positions,
        "timesteps": state.mask * sigma,
    }
    if state.keyframes is not None:
        fields["keyframes_mask"] = state.keyframes[..., None].astype(jnp.float32)
    weights = items.attention_weights(state)
    if weights is not None:
        fields["attention_mask"] = weights
    return {f"{prefix}_{name}": value for name, value in fields.items()}


# --- masks and lengths ----------------------------------------------------------------------------------------------


def _downsample_mask(case: Case) -> Outputs:
    return {"token_weights": masks.token_weights(case.inputs["mask"][:, 0], tuple(case.config["latent"]))}


def _temporal_subsample(case: Case) -> Outputs:
    return {f"indices_{i}": geometry.reference_frames(*row) for i, row in enumerate(case.config["cases"])}


def _conform_length(case: Case) -> Outputs:
    latent = case.inputs["latent"].swapaxes(1, 2)  # time first
    lengths = case.config["lengths"]
    return {f"latent_{n}": masks.conform_length(latent, n).swapaxes(1, 2) for n in lengths}


def _keyframe_positions(case: Case) -> Outputs:
    return {f"positions_{i}": geometry.spread_keyframes(*row) for i, row in enumerate(case.config["cases"])}


def _video_mask(case: Case) -> Outputs:
    grid, factors = (tuple(case.config[k]) for k in ("latent_fhw", "scale_factors"))
    return {"mask": masks.latent_mask(case.inputs["frames"].transpose(0, 2, 3, 1), grid, factors)}


def _audio_mask(case: Case) -> Outputs:
    (signal,) = case.inputs.values()
    return {"mask": masks.audio_mask(signal, case.config["latent_steps"])}


def _tiled_encode(case: Case) -> Outputs:
    """The toy encoder of the recording: a cell's mean colour in frame 2f, plus the mean of the whole tile."""
    c = case.config
    time, height, width = c["scale_factors"]

    def encode(video: np.ndarray) -> np.ndarray:
        video = np.asarray(video)  # (B, F, h, w, 3)
        frames = video[:, ::time].mean(axis=-1)
        b, f, h, w = frames.shape
        cells = frames.reshape(b, f, h // height, height, w // width, width).mean(axis=(3, 5))
        return (cells + video.mean(axis=(1, 2, 3, 4))[:, None, None, None])[..., None]

    video, factors = video_from_recording(case.inputs["video"]), tuple(c["scale_factors"])
    latents = encode_in_tiles(encode, video, factors, c["tile_size"], c["tile_overlap"])
    return {"latents": latents.transpose(0, 4, 1, 2, 3)}


_ITEM_KINDS = (
    "latent_index", "audio_prefix", "reference_video", "reference_audio", "mask", "keyframe", "keyframe_slots",
    "temporal_region",
)  # fmt: skip

KINDS: dict[str, Callable[[Case], Outputs]] = {
    **{f"diffusion.condition.{name}": _condition for name in _ITEM_KINDS},
    "diffusion.condition.downsample_mask": _downsample_mask,
    "diffusion.condition.temporal_subsample": _temporal_subsample,
    "diffusion.condition.conform_length": _conform_length,
    "diffusion.keyframe_positions": _keyframe_positions,
    "training.mask.video": _video_mask,
    "training.mask.audio": _audio_mask,
    "training.tiled_encode": _tiled_encode,
}
