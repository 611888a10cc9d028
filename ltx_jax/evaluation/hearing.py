"""What the samples of a toy clip sound like: when tones begin, of which pitch and timbre. Nothing but sound is read.

All tones of the toy world lie on multiples of 100 Hz, which are orthogonal over 10 ms: the amplitude of each one is
measured there at every millisecond, and a tone begins where some of them rise and stay.
"""

import dataclasses

import numpy as np

from ltx_jax.data.raw.toy.vocabulary import OVERTONES, PITCHES
from ltx_jax.errors import require

BINS = np.arange(2, 41)  # multiples of 100 Hz that are measured
LOWEST, HIGHEST = 3, 12  # of those that tell a tone's beginning
RISE = 0.06  # amplitude by which a tone rises at least
NEXT, LONG = 6, 20  # milliseconds: a rise is what is louder from NEXT to NEXT + LONG after than as long before
APART = 40  # milliseconds within which rises are of one beginning
STRONG_MIX = 0.43  # loudness of an overtone between the soft (0.25) and the loud (0.75) ones


@dataclasses.dataclass(frozen=True)
class Tone:
    """One beginning: its time in seconds, the shapes whose pitches rise, and the colour that one alone sounds like."""

    time: float
    shapes: tuple[str, ...]
    color: str | None


def listen(audio: np.ndarray, rate: int) -> tuple[Tone, ...]:
    """Read a clip's sound: float32 (2, samples) at rate Hz."""
    level = amplitudes(audio, rate)  # (milliseconds, bins)
    rise = _rises(level)
    heard = rise[:, LOWEST - BINS[0] : HIGHEST - BINS[0] + 1]
    strongest, starts = heard.max(1), []
    while strongest.size and strongest.max() > RISE:
        at = int(strongest.argmax())
        starts.append(at)
        strongest[max(0, at - APART) : at + APART + 1] = 0
    return tuple(_tone(level, rise, at) for at in sorted(starts))


def amplitudes(audio: np.ndarray, rate: int) -> np.ndarray:
    """Amplitude of every bin over the 10 ms around every millisecond, of both channels together: (milliseconds, bins).

    Raises UserError when a millisecond is no whole number of samples.
    """
    require(rate % 1000 == 0, f"Tones are read at a rate of whole samples a millisecond, not at {rate} Hz.")
    step, count = rate // 1000, audio.shape[1] * 1000 // rate
    pieces = audio[:, : count * step].astype(np.float64).reshape(2, count, step)
    pieces = np.pad(pieces, ((0, 0), (5, 5 + -count % 10), (0, 0))).reshape(2, -1, 10, step)  # the waves' period: 10 ms
    time = np.arange(10 * step).reshape(10, step) / rate
    waves = np.exp(-2j * np.pi * 100 * BINS[:, None, None] * time)
    parts = np.einsum("cpms,bms->cpmb", pieces, waves).reshape(2, -1, len(BINS))
    total = np.cumsum(np.pad(parts, ((0, 0), (1, 0), (0, 0))), axis=1)
    power = np.abs(total[:, 10 : 10 + count] - total[:, :count]) * 2 / (10 * step)
    return np.sqrt(np.square(power).sum(0))


def _rises(level: np.ndarray) -> np.ndarray:
    """How much louder each bin stays after each millisecond than it ever was before: (milliseconds, bins).

    Too near to the end nothing can be said to stay, and all is zero.
    """
    padded = np.pad(level, ((NEXT + LONG, NEXT + LONG), (0, 0)), mode="edge")
    runs = np.lib.stride_tricks.sliding_window_view(padded, LONG, axis=0)
    count = len(level)
    before, after = runs.max(-1)[:count], runs.min(-1)[2 * NEXT + LONG : 2 * NEXT + LONG + count]
    known = np.arange(count)[:, None] < count - NEXT - LONG
    return np.where(known, np.maximum(after - before, 0), 0)


def _tone(level: np.ndarray, rise: np.ndarray, at: int) -> Tone:
    """The tone that begins near millisecond `at`: half way up its strongest bin."""
    risen = rise[max(0, at - 5) : at + 6].max(0)
    at_bin = int(risen[: HIGHEST - BINS[0] + 1].argmax())
    part = level[max(0, at - APART // 2) : at + APART // 2, at_bin]
    half = (part.min() + level[min(at + NEXT, len(level) - 1), at_bin]) / 2
    time = (max(0, at - APART // 2) + int(np.argmax(part > half))) / 1000
    shapes = tuple(shape for shape, pitch in PITCHES.items() if risen[round(pitch / 100) - BINS[0]] > RISE / 2)
    color = _timbre(risen, PITCHES[shapes[0]]) if len(shapes) == 1 else None
    return Tone(time, shapes, color)


def _timbre(risen: np.ndarray, pitch: float) -> str:
    """The colour whose overtone rises along with the pitch."""
    own = {n: risen[round(n * pitch / 100) - BINS[0]] for n in range(2, 6)}
    number = max(own, key=lambda n: own[n])
    loud = own[number] > STRONG_MIX * risen[round(pitch / 100) - BINS[0]]
    return next(name for name, (n, mix) in OVERTONES.items() if n == number and (mix > STRONG_MIX) == loud)
