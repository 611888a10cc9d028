"""What a video autoencoder keeps: the PSNR of real clips after encoder and decoder."""

import functools
import os
from pathlib import Path

import jax
import numpy as np

from ltx_jax.bundle import Bundle, Networks, networks_on
from ltx_jax.codec import VIDEO_DECODER, VIDEO_ENCODER, decode_video, to_unit, video_tokens
from ltx_jax.data.config import DataConfig
from ltx_jax.data.raw.videos import VideoSource
from ltx_jax.diffusion.geometry import VideoShape, latent_shape
from ltx_jax.errors import require
from ltx_jax.parallel.mesh import MeshConfig, make_mesh


def evaluate_reconstruction(model: Bundle, folder: str | os.PathLike[str], windows: int = 4) -> dict[str, float]:
    """PSNR in dB of every video of `folder` by its file name, and of all of them as "mean" (of the decibels).

    windows: clips of the release's default size that are drawn from each video. Raises UserError as `build_index`.
    """
    require(windows >= 1, f"windows is {windows}, but must be at least 1.")
    size = model.release.sampling
    source = VideoSource(DataConfig(str(folder), size.num_frames, size.height, size.width, size.fps))
    params = {part: model.params[part] for part in {*VIDEO_ENCODER, *VIDEO_DECODER}}
    mesh, result = make_mesh(MeshConfig(), jax.devices()[:1]), {}
    networks = networks_on(mesh, model.release)
    with jax.set_mesh(mesh):
        rebuild = jax.jit(functools.partial(_rebuild, networks, model.release.video_vae.scale_factors, size.fps))
        for number, entry in enumerate(source.index.entries):
            video = np.stack([source.item(number, draw)["video"] for draw in range(windows)])
            result[Path(entry.path).name] = psnr(video, np.asarray(rebuild(params, video)))
    return result | {"mean": float(np.mean(list(result.values())))}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures; the error is averaged over all of them first."""
    error = np.mean(np.square(a.astype(np.float64) - b.astype(np.float64)))
    return float(10 * np.log10(255**2 / max(error, 1e-10)))


def _rebuild(
    networks: Networks, factors: tuple[int, int, int], fps: float, params: dict, video: jax.Array
) -> jax.Array:
    """Pixels uint8 (B, F, h, w, 3) through the autoencoder and back, as data preparation and sampling do it."""
    _, frames, height, width, _ = video.shape
    tokens = video_tokens(networks, params, to_unit(video))
    grid = latent_shape(VideoShape(frames, height, width, fps), factors)
    return decode_video(networks, params, tokens, None, grid)
