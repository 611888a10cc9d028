"""The pictures of a file in order of time, from any second on, exactly as when it is read from its start."""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Iterator

import av
import numpy as np

from ltx_jax.errors import UserError
from ltx_jax.media.container import decoded, find_film, opened, packets, path_of, seek
from ltx_jax.media.display import Display, display_of

JUMP = 1.0  # seconds that a frame's time may lie before that of the frame before it
COARSEST = 0.002  # seconds: containers round times to a millisecond or a six-hundredth of a second


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The first picture of a film: its time on the file's own clock in seconds, and its size as displayed.

    slack: seconds by which a frame counts as shown before its time, because the container rounded it. delay: ticks
    from a frame's entry into the decoder to its time on screen, of a container without display times.
    """

    zero: float
    height: int
    width: int
    slack: float
    delay: int


@dataclasses.dataclass(frozen=True)
class Shown:
    """A frame that is on screen from `time` to `end`, in seconds from the file's first picture."""

    time: float
    end: float
    frame: av.VideoFrame
    display: Display

    def picture(self, height: int, width: int) -> np.ndarray:
        """The frame as it is to be seen, covering height x width: uint8 (height, width, 3)."""
        return self.display.picture(self.frame, height, width)


def film_of(container: av.container.InputContainer, path: str | os.PathLike[str]) -> av.VideoStream:
    """The film of an opened file. Raises UserError when it has none."""
    film = find_film(container)
    if film is None:
        what = "only a picture or a codec that cannot be decoded" if container.streams.video else "no video track"
        raise UserError(f"'{path}' has no film: {what}.")
    return film


def beginning(path: str | os.PathLike[str]) -> Beginning:
    """The first picture of a file; remembered, for sound and later windows are counted from it.

    Raises UserError when there is no film or no frame of it can be decoded.
    """
    state = os.stat(path) if os.path.isfile(path) else None
    return _beginning(os.fspath(path), state and (state.st_size, state.st_mtime_ns))


@functools.lru_cache(maxsize=1 << 14)
def _beginning(path: str, state: tuple[int, int] | None) -> Beginning:
    del state  # a file that changed is looked at again
    with opened(path) as container:
        film = film_of(container, path)
        frame = next(decoded(container, film), None)
        if frame is None:
            raise UserError(f"'{path}' has no frame that can be decoded.")
        display = display_of(frame, film)
        tick = float(film.time_base or 0)
        slack = 1e-6 + (min(tick, COARSEST) if 4 * tick < frame_seconds(film) else 0.0)
        if without_display_times(container):
            return Beginning(0.0, display.height, display.width, slack, delay=frame.dts or 0)
        ticks = film.start_time if frame.pts is None else frame.pts
        return Beginning(float((ticks or 0) * film.time_base), display.height, display.width, slack, delay=0)


def without_display_times(container: av.container.InputContainer) -> bool:
    """Whether the container stores frames without the times at which they are shown, so that these are guesses."""
    return container.format.name == "avi"


def frame_seconds(film: av.VideoStream) -> float:
    """Seconds from one frame to the next, on average; 0 where the file does not say."""
    rate = film.average_rate or film.guessed_rate
    return float(1 / rate) if rate else 0.0


def shown_frames(path: str | os.PathLike[str], start: float = 0.0) -> Iterator[Shown]:
    """The frames of a file in order of time, from the one on screen at `start` seconds, or one before it, on.

    Raises UserError when there is no film.
    """
    begin = beginning(path)
    if start > 0:
        with opened(path) as container:
            frames = _after_seek(container, film_of(container, path), begin, start)
            if frames is not None:
                yield from frames
                return
    with opened(path) as container:
        yield from _timed(container, film_of(container, path), begin)


def _after_seek(
    container: av.container.InputContainer, film: av.VideoStream, begin: Beginning, start: float
) -> Iterator[Shown] | None:
    """The frames from a key frame at or before `start` on; None when only the file's beginning leads there.

    Without an index a seek may land anywhere, with one behind `start`, since decoding order counts: then earlier.
    """
    back = 0.0
    while back <= start and seek(container, film, begin.zero + start - back):
        frames = _timed(container, film, begin, certain=True)
        for shown in itertools.takewhile(lambda shown: shown.time <= start + begin.slack, frames):
            if shown.frame.key_frame:  # what came before it may lack what it refers to
                return itertools.chain([shown], frames)
        back = max(1.0, 3 * back)
    return None


def _timed(
    container: av.container.InputContainer, film: av.VideoStream, begin: Beginning, certain: bool = False
) -> Iterator[Shown]:
    """The frames from the current position on. certain: leave those out whose time is not known (after a seek)."""
    guess = without_display_times(container)
    before, end = -math.inf, None if certain else 0.0
    for frame in decoded(container, film):
        ticks = frame.pts
        if guess:
            ticks = None if frame.dts is None else frame.dts - begin.delay
        time = end if ticks is None else float(ticks * film.time_base) - begin.zero
        if time is None:
            continue
        if time < before - JUMP:
            raise UserError(f"'{path_of(container)}' jumps back in time at second {before:.2f}: remux or cut it there.")
        before = time = max(time, before)
        end = time + (float(frame.duration * film.time_base) if frame.duration else frame_seconds(film))
        yield Shown(time, end, frame, display_of(frame, film))


def frame_count(film: av.VideoStream) -> int:
    """How many frames are shown, by the container's index (an edit list hides some); 0 where it does not say."""
    entries = list(film.index_entries) if film.frames else []
    return sum(not entry.is_discard and entry.size > 0 for entry in entries) or film.frames


def film_end(container: av.container.InputContainer, film: av.VideoStream, path: str | os.PathLike[str]) -> float:
    """When the last frame stops to be shown, on the file's own clock, read from the last packets."""
    begins = float((film.start_time or 0) * film.time_base)
    lasts = float(film.duration * film.time_base) if film.duration else (container.duration or 0) / av.time_base
    back = 1.0
    while back < lasts and seek(container, film, begins + lasts - back):
        end = _packets_end(container, film)
        if end is not None:
            return end
        back *= 4
    with opened(path) as fresh:
        return _packets_end(fresh, film_of(fresh, path)) or 0.0


def _packets_end(container: av.container.InputContainer, film: av.VideoStream) -> float | None:
    guess, lasts, end = without_display_times(container), frame_seconds(film), None
    for packet in packets(container, film):
        ticks = packet.dts if guess or packet.pts is None else packet.pts
        if ticks is not None and not packet.is_discard:
            shown = float((ticks + (packet.duration or 0)) * film.time_base) + (0.0 if packet.duration else lasts)
            end = shown if end is None else max(end, shown)
    return end
