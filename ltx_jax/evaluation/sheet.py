"""A sheet of measured clips: frames, and below them what is heard, so that a tone is seen under its bounce."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ltx_jax.evaluation.scores import judge
from ltx_jax.evaluation.toy import Measured
from ltx_jax.media.images import write_png
from ltx_jax.models.audio_vae.mel import mel_filterbank

FRAMES, MARGIN, TEXT, WAVE, MEL = 13, 4, 12, 24, 32


def write_sheet(measured: Measured, path: str | os.PathLike[str], count: int = 24) -> Path:
    """Write the first clips as one PNG: prompt and what is wrong, frames from left to right, waveform, log-mel."""
    rows = [_row(measured, i) for i in range(min(count, len(measured.films)))]
    return write_png(np.concatenate(rows), path)


def _row(measured: Measured, i: int) -> np.ndarray:
    film, wanted, clip = measured.films[i], measured.wanted[i], measured.clips[i]
    chosen = np.linspace(0, len(film.video) - 1, min(FRAMES, len(film.video))).round().astype(int)
    framed = np.pad(film.video[chosen], ((0, 0), (0, MARGIN), (0, MARGIN), (0, 0)), constant_values=255)
    strip = np.concatenate(list(framed), axis=1)
    wrong = [name for name, right in judge(wanted, clip).items() if not right]
    text = f"{i}: {wanted.prompt}" + (f"   [{', '.join(wrong)}]" if wrong else "")
    width = strip.shape[1]
    return np.concatenate([_text(text, width), strip, _wave(film.audio, width), _mel(film.audio, film.rate, width)])


def _text(text: str, width: int) -> np.ndarray:
    image = Image.new("RGB", (width, TEXT), "white")
    ImageDraw.Draw(image).text((1, 0), text, fill="black")
    return np.asarray(image)


def _wave(audio: np.ndarray, width: int) -> np.ndarray:
    """The loudest sample under every column, as a bar."""
    loud = np.array([np.abs(part).max(initial=0) for part in np.array_split(audio.mean(0), width)])
    high = np.arange(WAVE, 0, -1)[:, None] <= loud / max(float(loud.max()), 1e-3) * WAVE
    return np.where(high[..., None], np.uint8([40, 90, 160]), np.uint8(255)).astype(np.uint8)


def _mel(audio: np.ndarray, rate: int, width: int, size: int = 512) -> np.ndarray:
    """Log-mel of both channels' mean, low pitches below."""
    mono = np.pad(audio.mean(0), size // 2)
    starts = np.linspace(0, len(mono) - size, width).astype(int)
    spectrum = np.abs(np.fft.rfft(np.stack([mono[s : s + size] for s in starts]) * np.hanning(size)))
    level = np.log(np.maximum(spectrum @ mel_filterbank(size, MEL, rate), 1e-3)).T[::-1]
    shade = np.clip((level + 7) / 9 * 255, 0, 255).astype(np.uint8)[..., None].repeat(3, -1)
    return np.pad(shade, ((0, 2 * MARGIN), (0, 0), (0, 0)), constant_values=255)
