"""Audio on the host, in NumPy: channel rules, resampling and PCM (spec audio_vae.md section 3)."""

import functools
import math

import numpy as np

from ltx_jax.errors import UserError, require

LOWPASS_WIDTH, ROLLOFF = 6, 0.99
BLOCK = 1 << 15  # resampling steps at a time: bounds the memory for long files
MAX_TABLE = 1 << 26  # numbers in a resampling kernel
PCM_SCALE = 32767
COMPANION = 0.707  # weight of centre, side and back channels beside a front channel


def to_stereo(waveform: np.ndarray) -> np.ndarray:
    """Two channels from any number: (C, L) or mono (L,) -> float32 (2, L).

    Mono is duplicated; 5.1 and 7.1 (order L R C LFE Ls Rs Lb Rb) are mixed down without the LFE; any other count
    becomes its mean, twice. Raises UserError on an array of other rank or without a channel.
    """
    waveform = np.asarray(waveform, np.float32)
    waveform = waveform[None] if waveform.ndim == 1 else waveform
    require(
        waveform.ndim == 2 and waveform.shape[0] >= 1,
        f"A waveform must have the shape (channels, samples), but has {waveform.shape}.",
    )
    channels = waveform.shape[0]
    if channels == 2:
        return waveform
    if channels not in (6, 8):
        return np.repeat(waveform.mean(axis=0, keepdims=True), 2, axis=0)
    centre = waveform[2]
    sides = [waveform[4::2].sum(axis=0), waveform[5::2].sum(axis=0)]  # Ls (+ Lb), Rs (+ Rb)
    total = np.float32(1 + COMPANION * (channels / 2 - 1))  # LFE carries no weight: 2.414 or 3.121
    mixed = [waveform[i] + np.float32(COMPANION) * (centre + sides[i]) for i in range(2)]
    return np.stack(mixed) / total


@functools.lru_cache(maxsize=32)
def resample_kernel(orig: int, new: int, lowpass_width: int = LOWPASS_WIDTH, rolloff: float = ROLLOFF) -> np.ndarray:
    """Hann-windowed sinc for every output phase: float32 (new / g, 2 * pad + orig / g), g the greatest common divisor.

    Evaluated in float32 and in the reference's order, which for awkward rates moves it by more than rounding.
    """
    divisor = math.gcd(orig, new)
    old, phases = orig // divisor, new // divisor
    pad, cutoff = _pad(old, phases, lowpass_width, rolloff), rolloff * min(old, phases)
    taps = np.arange(-pad, pad + old, dtype=np.float32) / np.float32(old)
    shifts = np.arange(0, -phases, -1, dtype=np.float32) / np.float32(phases)
    time = np.clip((shifts[:, None] + taps) * np.float32(cutoff), -lowpass_width, lowpass_width)
    window = np.square(np.cos(time * np.float32(math.pi) / np.float32(lowpass_width) / np.float32(2)))
    angle = time * np.float32(math.pi)
    sinc = np.where(angle == 0, np.float32(1), np.sin(angle) / np.where(angle == 0, np.float32(1), angle))
    return (sinc * (window * np.float32(cutoff / old))).astype(np.float32)


def resample(
    waveform: np.ndarray, orig: int, new: int, *, lowpass_width: int = LOWPASS_WIDTH, rolloff: float = ROLLOFF
) -> np.ndarray:
    """Waveform (C, L) at `orig` Hz -> float32 (C, ceil(L * new / orig)) at `new` Hz; zeros are assumed outside.

    Raises UserError on rates that are no positive whole numbers, or that share so small a divisor that the table of
    phases would not fit in memory.
    """
    for rate in (orig, new):
        require(int(rate) == rate and rate > 0, f"A sampling rate must be a positive whole number of Hz, not {rate}.")
    orig, new = int(orig), int(new)
    waveform = np.asarray(waveform, np.float32)
    if orig == new:
        return waveform
    divisor = math.gcd(orig, new)
    old, phases = orig // divisor, new // divisor
    require(
        old * phases <= MAX_TABLE,
        f"Cannot resample {orig} to {new} Hz: the rates share no large divisor; choose others.",
    )
    kernel = resample_kernel(orig, new, lowpass_width, rolloff)
    pad, samples = _pad(old, phases, lowpass_width, rolloff), waveform.shape[-1]
    padded = np.pad(waveform, ((0, 0), (pad, pad + old)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[1], axis=-1)[:, ::old]  # (C, steps, taps)
    steps = windows.shape[1]
    blocks = [windows[:, i : i + BLOCK] @ kernel.T for i in range(0, steps, BLOCK)]
    output = np.concatenate(blocks, axis=1).reshape(waveform.shape[0], -1)  # (C, steps * phases), phase fastest
    return output[:, : -(-phases * samples // old)]


def pcm16(waveform: np.ndarray) -> np.ndarray:
    """Float waveform in [-1, 1] -> int16 of the same shape: clipped, times 32767, truncated.

    Raises UserError on NaN or infinity, which would otherwise turn into a loud click.
    """
    waveform = np.asarray(waveform, np.float32)
    require(bool(np.isfinite(waveform).all()), "The waveform contains NaN or infinite samples: it cannot be written.")
    return (np.clip(waveform, -1, 1) * PCM_SCALE).astype(np.int16)


def from_pcm(samples: np.ndarray) -> np.ndarray:
    """Decoded samples of any usual type -> float32 in [-1, 1]: s16 / 2^15, s32 / 2^31, s64 / 2^63, floats as they are,
    (u8 - 128) / 128.

    Raises UserError on any other type.
    """
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype in (np.int16, np.int32, np.int64):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    if np.issubdtype(samples.dtype, np.floating):
        return samples.astype(np.float32)
    raise UserError(f"Audio samples of type {samples.dtype} are not supported: convert the file to 16-bit PCM.")


def _pad(old: int, phases: int, lowpass_width: int, rolloff: float) -> int:
    return math.ceil(lowpass_width * old / (rolloff * min(old, phases)))
