"""What the autoencoders keep of true toy clips: decibels, the width of edges, the log-mel, and what the vocoder adds.

The width of an edge is that of issue and textbook alike: how far it is from 90% of a body's colour to 10%, along the
normal of the true edge. Each ray from a body's centre is measured alone, so that a body in a slightly wrong place
counts as sharp; the median over rays, frames and bodies is told.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from ltx_jax.bundle import Bundle, Networks, networks_on
from ltx_jax.data.raw.toy.picture import distance
from ltx_jax.data.raw.toy.vocabulary import BACKGROUNDS, COLORS, SIZES
from ltx_jax.data.raw.toy.world import Clip, Truth
from ltx_jax.evaluation.reconstruction import psnr
from ltx_jax.models.audio_vae.mel import log_mel
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.training.autoencoders.objectives import stft_loss

SOUND = ("audio_encoder", "audio_decoder", "vocoder")
HIGH, LOW = 0.9, 0.1  # shares of a body's colour between which its edge lies
RAYS, REACH, STEP = 16, 5.0, 0.1  # rays of a body; pixels on either side of the true edge, and between samples
FRAMES = 5  # of a clip that are looked at


def fidelity(model: Bundle, clips: Sequence[Clip], rebuilt: Sequence[np.ndarray]) -> dict[str, float]:
    """Figures of true clips and of what the autoencoders made of their pictures, uint8 (F, h, w, 3) each.

    psnr: dB, mean over clips. edge_px: median width of edges in pixels, infinite where most never get to 90%;
    edge_px_truth: the same of the true pictures. mel_l1: of the autoencoder's log-mel, mean. vocoder_stft:
    multi-resolution STFT error of the vocoder on true log-mel, mean, as it is trained.
    """
    pictures = [clip.video for clip in clips]
    return {
        "psnr": float(np.mean([psnr(a, b) for a, b in zip(pictures, rebuilt, strict=True)])),
        "edge_px": edge_width(clips, rebuilt),
        "edge_px_truth": edge_width(clips, pictures),
        **sound_errors(model, np.stack([clip.audio for clip in clips])),
    }


# --- sound ----------------------------------------------------------------------------------------------------------


def sound_errors(model: Bundle, audio: np.ndarray, batch: int = 8) -> dict[str, float]:
    """mel_l1 and vocoder_stft of waveforms float32 (n, 2, L), see `fidelity`."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    networks, params = networks_on(mesh, model.release), {part: model.params[part] for part in SOUND}
    found = []
    with jax.set_mesh(mesh):
        measure = jax.jit(functools.partial(_sound_errors, networks))
        for i in range(0, len(audio), batch):
            rows = np.minimum(np.arange(i, i + batch), len(audio) - 1)  # one shape for all: the rest is cut
            found.append(np.stack(measure(params, audio[rows]))[:, : len(audio) - i])
    mel, stft = np.concatenate(found, axis=1).mean(axis=1)
    return {"mel_l1": float(mel), "vocoder_stft": float(stft)}


def _sound_errors(networks: Networks, params: Mapping[str, Any], audio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Errors (B,) of log-mel and of the vocoder; audio (B, 2, L)."""
    mel = log_mel(audio, networks.release.audio_vae)  # (B, M, bins, 2)
    latents, _ = networks.apply(params, "audio_encoder", mel)
    output = networks.apply(params, "audio_decoder", latents)
    frames = min(output.shape[1], mel.shape[1])
    heard = networks.apply(params, "vocoder", mel).astype(jnp.float32)
    samples = min(heard.shape[-1], audio.shape[-1])
    error = jnp.mean(jnp.abs(output[:, :frames] - mel[:, :frames]), axis=(1, 2, 3))
    return error, stft_loss(heard[..., :samples], audio[..., :samples])


# --- edges ----------------------------------------------------------------------------------------------------------


def edge_width(clips: Sequence[Clip], pictures: Sequence[np.ndarray]) -> float:
    """Median width in pixels of the edges of the clips' bodies, as `pictures` uint8 (F, h, w, 3) show them."""
    return float(np.median(np.concatenate([_clip_widths(c.truth, p) for c, p in zip(clips, pictures, strict=True)])))


def _clip_widths(truth: Truth, video: np.ndarray) -> np.ndarray:
    """Widths of all rays of all bodies in some frames of a clip."""
    scene, scale, widths = truth.scene, min(video.shape[1:3]), []
    ground = np.array(BACKGROUNDS[scene.background], float)
    for frame in np.unique(np.linspace(0, len(video) - 1, FRAMES).astype(int)):
        for body, shape in enumerate(scene.shapes):
            color, radius = np.array(COLORS[scene.colors[body]], float) - ground, SIZES[scene.sizes[body]] * scale
            share = (video[frame] - ground) @ color / (color @ color)  # (h, w) of the body's colour
            place = truth.positions[body, frame] * scale
            widths.append(ray_widths(share, shape, place, truth.angles[body, frame], radius))
    return np.concatenate(widths)


def ray_widths(share: np.ndarray, shape: str, place: np.ndarray, angle: float, radius: float) -> np.ndarray:
    """Widths (RAYS,) of a body's edge in pixels, infinite where a ray does not go from HIGH to LOW near the edge.

    share: (h, w) how much of the body's colour each pixel has. place: its centre (x, y) in pixels; angle in radians.
    """
    away = np.arange(0, radius + REACH, STEP)  # (n,) from the centre
    turns = np.linspace(0, 2 * np.pi, RAYS, endpoint=False)
    x, y = np.cos(turns)[:, None] * away, np.sin(turns)[:, None] * away  # (RAYS, n)
    cos, sin = np.cos(angle), np.sin(angle)
    inside = distance(shape, cos * x + sin * y, cos * y - sin * x, radius)  # as `coverage` turns it
    shares = ndimage.map_coordinates(share, [y + place[1] - 0.5, x + place[0] - 0.5], order=1, mode="nearest")
    return np.array([_width(away, *ray) for ray in zip(inside, shares, strict=True)])


def _width(away: np.ndarray, inside: np.ndarray, share: np.ndarray) -> float:
    """The width along one ray, times the cosine between it and the edge's normal."""
    edge = int(np.argmax(inside > 0))
    near = np.abs(away - away[edge]) <= REACH
    away, share, slope = away[near], share[near], np.gradient(inside, away)[edge]
    high = np.flatnonzero(share >= HIGH)
    if not len(high):
        return np.inf
    low = np.flatnonzero(share[high[-1] :] <= LOW)
    return float(slope * (low[0] * STEP)) if len(low) else np.inf
