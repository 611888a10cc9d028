"""The sound of a video, every piece of it at its time: gaps are silence, damaged packets are passed over."""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterator

import av
import numpy as np

from ltx_jax.errors import UserError
from ltx_jax.files import shown
from ltx_jax.media.audio import from_pcm, resample, to_stereo
from ltx_jax.media.container import decoded, find_film, find_sound, opened, seek, tick
from ltx_jax.media.film import beginning, without_display_times

WARM = 0.25  # seconds that a sound decoder needs before what it gives after a seek is right
BESIDE = 0.5  # seconds on both sides of a window that are read with it
CONTEXT = 8  # steps of resampling (see media/audio.py) on both sides of a window
# Samples by which coded sound comes out late, MP3 as LAME makes it and AAC as FFmpeg does: an AVI does not say it.
LAG = {"mp2": 481, "mp3": 1105, "ac3": 256, "aac": 1024}
JITTER = 0.005  # seconds: a smaller gap is a rounded time


@dataclasses.dataclass
class Run:
    """Frames of sound that follow each other without a gap. starts: where each says that the run begins, in seconds.

    waves: float32 (2, n) each, at `rate` Hz, `length` samples in all.
    """

    rate: int
    starts: list[float] = dataclasses.field(default_factory=list)
    waves: list[np.ndarray] = dataclasses.field(default_factory=list)
    length: int = 0

    @property
    def start(self) -> float:
        """Second at which the run begins: the mean, for single times may be rounded to milliseconds."""
        return sum(self.starts) / len(self.starts)

    def continues(self, time: float, frame: av.AudioFrame) -> bool:
        """Whether a frame of this time is the next of the run."""
        gap = time - self.start - self.length / self.rate
        return frame.sample_rate == self.rate and abs(gap) <= max(JITTER, frame.samples / self.rate / 2)

    def add(self, time: float, frame: av.AudioFrame) -> None:
        """Append a frame."""
        self.starts.append(time - self.length / self.rate)
        self.waves.append(to_stereo(_waveform(frame)))
        self.length += frame.samples


def read_audio(
    path: str | os.PathLike[str], *, samples: int, sample_rate: int, start: float = 0.0
) -> tuple[np.ndarray, bool]:
    """Stereo sound float32 (2, samples) at `sample_rate` from `start` seconds on, and whether the file has any there.

    Seconds count from the first picture that is shown, or from the first sound where there is no film. Where there is
    no sound there is silence. Channels are mixed to two (spec audio_vae.md 3). Raises UserError for a file that cannot
    be opened or whose samples are no numbers.
    """
    seconds = samples / sample_rate
    total, heard = np.zeros((2, samples), np.float32), False
    runs = _runs(path, start, start + seconds)
    for rate in sorted({run.rate for run in runs}):
        divisor = math.gcd(rate, sample_rate)
        before = CONTEXT * rate // divisor
        wave = np.zeros((2, math.ceil(seconds * rate) + 2 * before), np.float32)
        for run in (run for run in runs if run.rate == rate):
            first = round((run.start - start) * rate) + before
            low, high = max(0, first), min(wave.shape[1], first + run.length)
            if low < high:
                wave[:, low:high] = np.concatenate(run.waves, axis=1)[:, low - first : high - first]
                heard |= high > before and low < wave.shape[1] - before
        try:
            wave = resample(wave, rate, sample_rate)
        except UserError as error:
            raise UserError(f"The sound of '{shown(path)}' cannot be read: {error}") from None
        total += wave[:, CONTEXT * sample_rate // divisor :][:, :samples]
    if not np.isfinite(total).all():
        raise UserError(f"The sound of '{shown(path)}' holds samples that are no numbers: encode it anew.")
    return total, heard


def _runs(path: str | os.PathLike[str], start: float, stop: float) -> list[Run]:
    """The sound from a little before `start` to a little behind `stop`."""
    with opened(path) as container:
        film = find_film(container)
        sound = find_sound(container, film)
        if sound is None:
            return []
        zero = beginning(path).zero if film is not None else float((sound.start_time or 0) * tick(sound))
        back = BESIDE
        while back <= start and seek(container, sound, zero + start - back):
            frames = _timed(container, sound, zero)
            head = next(frames, None)
            if head is not None and head[0] <= start - WARM:
                return _joined(itertools.chain([head], frames), start - BESIDE, stop + BESIDE)
            back *= 4
    with opened(path) as container:
        sound = find_sound(container, find_film(container))
        return [] if sound is None else _joined(_timed(container, sound, zero), start - BESIDE, stop + BESIDE)


def _timed(
    container: av.container.InputContainer, sound: av.AudioStream, zero: float
) -> Iterator[tuple[float, av.AudioFrame]]:
    """Decoded frames and their seconds; one that has no time follows the one before."""
    end, lag = None, LAG.get(sound.codec_context.codec.canonical_name, 0) if without_display_times(container) else 0
    for frame in decoded(container, sound):
        time = end if frame.pts is None else float(frame.pts * tick(sound)) - zero - lag / frame.sample_rate
        if time is not None:
            yield time, frame
            end = time + frame.samples / frame.sample_rate


def _joined(frames: Iterator[tuple[float, av.AudioFrame]], start: float, stop: float) -> list[Run]:
    runs: list[Run] = []
    for time, frame in frames:
        if time > stop:
            break
        if time + frame.samples / frame.sample_rate < start:
            continue
        if not runs or not runs[-1].continues(time, frame):
            runs.append(Run(frame.sample_rate))
        runs[-1].add(time, frame)
    return runs


def _waveform(frame: av.AudioFrame) -> np.ndarray:
    """(channels, samples) float32 in [-1, 1], whatever the sample format."""
    values = frame.to_ndarray()
    return from_pcm(values if frame.format.is_planar else values.reshape(-1, len(frame.layout.channels)).T)
