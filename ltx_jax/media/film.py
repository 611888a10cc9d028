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
from ltx_jax.media.container import decoded, find_film, name_of, opened, packets, seek, tick
from ltx_jax.media.display import Display, display_of

FASTEST = 480  # frames a second: a higher rate is a guess that failed, as of transport streams of varying rate
SPARSE = 6144  # bytes a frame below which a program stream is read from its start
BROADCAST = ("mpegts", "mpeg")  # containers whose clock may begin anew: recordings lie one after the other in a file
LEAP = 60.0  # seconds between two frames of a broadcast stream beyond which the second is of another recording
JUMP = 1.0  # seconds that a frame's time may lie before that of the frame before it
FINEST, COARSEST = 0.0005, 0.002  # seconds: times are rounded to milliseconds or to six-hundredths of a second


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


def film_of(container: av.container.InputContainer) -> av.VideoStream:
    """The film of an opened file. Raises UserError when it has none."""
    film = find_film(container)
    if film is None:
        what = "only a picture or a codec that cannot be decoded" if container.streams.video else "no video track"
        raise UserError(f"'{name_of(container)}' has no film: {what}.")
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
        film = film_of(container)
        frame = next((frame for frame in decoded(container, film) if not frame.is_corrupt), None)
        if frame is None:
            raise UserError(f"'{name_of(container)}' has no frame that can be decoded.")
        display = display_of(frame, film)
        rounding = float(tick(film))
        slack = 1e-6 + (min(max(rounding, FINEST), COARSEST) if 4 * rounding < _frame_seconds(film) else 0.0)
        if without_display_times(container):
            return Beginning(0.0, display.height, display.width, slack, delay=frame.dts or 0)
        ticks = film.start_time if frame.pts is None else frame.pts
        return Beginning(float((ticks or 0) * tick(film)), display.height, display.width, slack, delay=0)


def without_display_times(container: av.container.InputContainer) -> bool:
    """Whether the container stores frames without the times at which they are shown, so that these are guesses."""
    return container.format.name == "avi"


def frame_rate(film: av.VideoStream) -> float:
    """Frames a second, on average; 0 where the file does not say."""
    rate = film.average_rate or film.guessed_rate
    return float(rate) if rate and rate <= FASTEST else 0.0


def _frame_seconds(film: av.VideoStream) -> float:
    rate = frame_rate(film)
    return 1 / rate if rate else 0.0


def shown_frames(path: str | os.PathLike[str], start: float = 0.0) -> Iterator[Shown]:
    """The frames of a file in order of time, from the one on screen at `start` seconds, or one before it, on.

    Damaged frames are left out: the one before stays on screen. Raises UserError when there is no film, and where its
    times begin anew.
    """
    begin = beginning(path)
    if start > 0:
        with opened(path) as container:
            frames = _after_seek(container, film_of(container), begin, start)
            if frames is not None:
                yield from _in_order(frames, container)
                return
    with opened(path) as container:
        yield from _in_order(_timed(container, film_of(container), begin, 0.0), container)


def _after_seek(
    container: av.container.InputContainer, film: av.VideoStream, begin: Beginning, start: float
) -> Iterator[Shown] | None:
    """The frames from a key frame at or before `start` on; None when only the file's beginning leads there.

    Without an index a seek may land anywhere, with one behind `start`, since decoding order counts: then earlier.
    """
    back = 0.0
    while back <= start and _keeps_times(container, film) and seek(container, film, begin.zero + start - back):
        frames = _timed(container, film, begin, None)
        for shown in itertools.takewhile(lambda shown: shown.time <= start + begin.slack, frames):
            if shown.frame.key_frame:  # what came before it may lack what it refers to
                following = next(frames, None)
                if following is None or following.time > shown.time:  # else it was given a later packet's time
                    return itertools.chain([shown], [following] if following else [], frames)
        back = max(1.0, 3 * back)
    return None


def _keeps_times(container: av.container.InputContainer, film: av.VideoStream) -> bool:
    """Whether times are known after a seek. Program streams tell one in 2 kB: none of most frames that are smaller."""
    frames = (container.duration or 0) / av.time_base * frame_rate(film)
    return container.format.name != "mpeg" or container.size > SPARSE * frames


def _timed(
    container: av.container.InputContainer, film: av.VideoStream, begin: Beginning, end: float | None
) -> Iterator[Shown]:
    """The frames from the current position on. end: of the frame before; None: a frame without a time is left out."""
    guess = without_display_times(container)
    for frame in decoded(container, film):
        ticks = frame.pts
        if guess:
            ticks = None if frame.dts is None else frame.dts - begin.delay
        time = end if ticks is None else float(ticks * tick(film)) - begin.zero
        if time is not None:
            end = time + (float(frame.duration * tick(film)) if frame.duration else _frame_seconds(film))
            if not frame.is_corrupt:
                yield Shown(time, end, frame, display_of(frame, film))


def _in_order(frames: Iterator[Shown], container: av.container.InputContainer) -> Iterator[Shown]:
    """The frames, without a single one whose time is far behind that of the next. Raises UserError at a real jump."""
    jumps = lambda how: UserError(
        f"'{name_of(container)}' jumps {how} in time at second {before:.2f}: cut it there, or remux it."
    )
    before, held = -math.inf, None
    for shown in frames:
        if held is not None and shown.time >= held.time - JUMP:
            if container.format.name in BROADCAST and LEAP < held.time - before < math.inf:
                raise jumps("ahead")
            yield held
            before = held.time
        elif shown.time < before - JUMP:
            raise jumps("back")
        held = dataclasses.replace(shown, time=max(shown.time, before))
    if held is not None:
        yield held


def frame_count(film: av.VideoStream) -> int:
    """How many frames are shown, by the container's index (an edit list hides some); 0 where it does not say."""
    entries = list(film.index_entries) if film.frames else []
    return sum(not entry.is_discard and entry.size > 0 for entry in entries) or film.frames


@dataclasses.dataclass(frozen=True)
class Ending:
    """The end of a film: second on the file's own clock at which its last frame stops to be shown; frames a second."""

    time: float
    rate: float


def ending(container: av.container.InputContainer, film: av.VideoStream, path: str | os.PathLike[str]) -> Ending:
    """The end of a film, read from its last packets."""
    begins = float((film.start_time or 0) * tick(film))
    lasts = float(film.duration * tick(film)) if film.duration else (container.duration or 0) / av.time_base
    back = 1.0
    while back < lasts and _keeps_times(container, film) and seek(container, film, begins + lasts - back):
        found = _ending(container, film)
        if found is not None:
            return found
        back *= 4
    with opened(path) as fresh:
        return _ending(fresh, film_of(fresh)) or Ending(begins, 0.0)


def _ending(container: av.container.InputContainer, film: av.VideoStream) -> Ending | None:
    guess, lasts = without_display_times(container), _frame_seconds(film)
    count, first, last, end = 0, math.inf, -math.inf, -math.inf
    for packet in packets(container, film):
        ticks = packet.dts if guess or packet.pts is None else packet.pts
        if ticks is not None and not packet.is_discard:
            time = float(ticks * tick(film))
            count, first, last = count + 1, min(first, time), max(last, time)
            end = max(end, time + (float(packet.duration * tick(film)) if packet.duration else lasts))
    return Ending(end, (count - 1) / (last - first) if last > first else 0.0) if count else None
