"""What a run shows of itself: reconstructions of the first clips, as mp4 grid, contact sheet and sound."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.bundle import Networks
from ltx_jax.codec import audio_means, audio_waveform, decode_means, to_unit, video_means
from ltx_jax.data.raw.item import Item, Source
from ltx_jax.media.images import contact_sheet
from ltx_jax.media.video import write_video
from ltx_jax.parallel.multihost import local_mesh
from ltx_jax.training.state import TrainState

CLIPS = 4


def video_preview(setting: Any, networks: Networks, source: Source, state: TrainState, step: int, folder: Path) -> None:
    """Write step_N.mp4 and step_N.png: clips above, their reconstructions below."""
    clips = _first_clips(source)
    video = np.stack([clip["video"] for clip in clips])

    def reconstruct(params: Any, video: jax.Array) -> jax.Array:
        return decode_means(networks, params, video_means(networks, params, to_unit(video)))

    with jax.set_mesh(local_mesh(setting.mesh)):
        output = np.asarray(jax.jit(reconstruct)(state.weights, jnp.asarray(video)))
    rows = [np.concatenate(list(clips), axis=2) for clips in (video, output)]  # (F, h, CLIPS * w, 3)
    write_video(folder / f"step_{step:06d}.mp4", np.concatenate(rows, axis=1), setting.data.fps)
    contact_sheet([clip for pair in zip(video, output, strict=True) for clip in pair], folder / f"step_{step:06d}.png")


def audio_preview(setting: Any, networks: Networks, source: Source, state: TrainState, step: int, folder: Path) -> None:
    """Write step_N_K.mp4: the pictures of clip K with its sound after encoder, decoder and vocoder."""
    clips = _first_clips(source)
    audio = np.stack([clip["audio"] for clip in clips])

    def reconstruct(params: Any, audio: jax.Array) -> jax.Array:
        return audio_waveform(networks, params, audio_means(networks, params, audio))

    with jax.set_mesh(local_mesh(setting.mesh)):
        output = np.asarray(jax.jit(reconstruct)(state.weights, jnp.asarray(audio)))
    for i, clip in enumerate(clips):
        path = folder / f"step_{step:06d}_{i + 1}.mp4"
        write_video(path, clip["video"], setting.data.fps, output[i], setting.data.sample_rate)


def _first_clips(source: Source) -> list[Item]:
    return [source.item(i % len(source), i // len(source)) for i in range(CLIPS)]
