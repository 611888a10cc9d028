"""Recorded cases of the mathematics of sampling (spec sampling.md). Recordings are channels-first; we transpose."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.diffusion import geometry

Outputs = dict[str, np.ndarray]


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


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "diffusion.latent_shape": _latent_shape,
    "diffusion.positions.video": _positions_video,
    "diffusion.positions.audio": _positions_audio,
    "diffusion.patchify": _patchify,
}
