"""Video files through PyAV: H.264 with AAC out, anything FFmpeg reads in. NumPy on this side, channels last."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from ltx_jax.errors import UserError, require
from ltx_jax.files import shown
from ltx_jax.media.coding import SCREEN, Coding
from ltx_jax.media.container import file_url, find_sound, opened, reason
from ltx_jax.media.film import beginning, ending, film_of, frame_count, frame_rate, shown_frames
from ltx_jax.media.sound import read_audio

__all__ = [
    "VideoInfo", "on_screen", "probe", "read_all", "read_audio", "read_metadata", "read_video", "thumbnails",
    "write_video",
]  # fmt: skip

RATES = (0.1, 1000)  # frames per second that are written
ENDINGS = (".mp4", ".mov", ".mkv")


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself: frames (0 where it does not say), fps, seconds, size, whether it has sound."""

    frames: int
    fps: float
    seconds: float
    height: int
    width: int
    has_audio: bool


def write_video(
    path: str | os.PathLike[str], video: Iterable[np.ndarray], fps: float, audio: np.ndarray | None = None,
    sample_rate: int = 16000, metadata: Mapping[str, str] | None = None, coding: Coding = SCREEN,
) -> Path:  # fmt: skip
    """Write frames (h, w, 3) and sound float32 (2, L), ready to stream: as H.264 (yuv420p) of uint8 and AAC, or as
    another coding says, which then says what its frames are.

    video: an array (F, h, w, 3), or frames that are made as they are written, one at a time. metadata: strings, kept
    under their own names. The file appears whole or not at all. Raises UserError for an
    ending that is no video, odd sizes, no frames, a rate that no player keeps, or a place that cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in ENDINGS:
        raise UserError(f"The output '{target}' is no video: its name must end in {', '.join(ENDINGS)}.")
    frames = iter(video)
    first = next(frames, None)
    if first is None or first.ndim != 3 or first.shape[0] % 2 or first.shape[1] % 2:
        shape = None if first is None else first.shape
        raise UserError(f"A video needs frames of even height and width, not of shape {shape}.")
    require(RATES[0] <= fps <= RATES[1], f"A video needs between {RATES[0]} and {RATES[1]} frames a second, not {fps}.")
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    # faststart alone drops metadata keys that MP4 does not know
    options = {"movflags": "faststart+use_metadata_tags"} if target.suffix.lower() != ".mkv" else {}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with av.open(file_url(temporary), "w", options=options) as container:
            container.metadata.update(dict(metadata or {}))
            picture = coding.stream(container, *first.shape[:2], fps)
            sound = None if audio is None else container.add_stream("aac", rate=sample_rate, layout="stereo")
            _encode_video(container, picture, itertools.chain([first], frames), coding)
            if sound is not None and audio is not None:
                _encode_audio(container, sound, audio, sample_rate)
        os.replace(temporary, target)
    except (FFmpegError, OSError) as error:
        raise UserError(f"The video '{target}' cannot be written ({reason(error)}).") from None
    finally:
        with contextlib.suppress(OSError):  # where the folder itself is what is wrong
            temporary.unlink(missing_ok=True)
    return target


def _encode_video(
    container: av.container.OutputContainer, stream: av.VideoStream, video: Iterable[np.ndarray], coding: Coding
) -> None:
    for picture in video:
        container.mux(stream.encode(coding.frame(picture)))
    container.mux(stream.encode())


def _encode_audio(
    container: av.container.OutputContainer, stream: av.AudioStream, audio: np.ndarray, rate: int
) -> None:
    samples = np.ascontiguousarray(np.clip(audio, -1, 1).astype(np.float32))
    for start in range(0, samples.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, start : start + 1024]), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings stored in a file, as `write_video` took them; of a Matroska file in lower case, which it forgets."""
    with opened(path) as container:
        fold = str.lower if "matroska" in container.format.name else str
        return {fold(key): value for key, value in container.metadata.items()}


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """What the file shows, after decoding its first frame and reading its last packets.

    Raises UserError when it holds no film that can be decoded.
    """
    begin = beginning(path)
    with opened(path) as container:
        film = film_of(container)
        end = ending(container, film, path)
        rate = frame_rate(film) or end.rate
        if not rate:
            raise UserError(f"'{shown(path)}' says no frame rate.")
        heard = find_sound(container, film) is not None
        return VideoInfo(frame_count(film), rate, end.time - begin.zero, begin.height, begin.width, heard)


def read_video(
    path: str | os.PathLike[str], *, frames: int, fps: float, height: int, width: int, start: float = 0.0
) -> np.ndarray:
    """`frames` frames from `start` seconds on at `fps`: uint8 (frames, height, width, 3), covering and cropped.

    Each output time, counted from the first picture, shows the frame that is on screen then, upright and on square
    pixels; a file that ends early holds its last frame. Raises UserError when nothing can be decoded from there on.
    """
    slack = beginning(path).slack
    wanted = start + np.arange(frames) / fps
    result = np.empty((frames, height, width, 3), np.uint8)
    done, before = 0, None
    for picture in shown_frames(path, start):
        if before is not None:
            until = int(np.searchsorted(wanted, picture.time - slack))
            if until > done:
                result[done:until] = before.picture(height, width)
                done = until
            if done == frames:
                return result
        before = picture
    if before is None:
        raise UserError(f"'{shown(path)}' has no frame that can be decoded from second {start:.2f} on.")
    result[done:] = before.picture(height, width)
    return result


def read_all(path: str | os.PathLike[str], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Every frame of a file, as `read_video` shows it, uint8 (n, height, width, 3), and from which second on (n,)."""
    slack = beginning(path).slack
    pairs = [(frame.time - slack, frame.picture(height, width)) for frame in shown_frames(path)]
    if not pairs:
        raise UserError(f"'{shown(path)}' has no frame that can be decoded.")
    return np.stack([picture for _, picture in pairs]), np.array([time for time, _ in pairs])


def thumbnails(path: str | os.PathLike[str], side: int) -> Iterator[tuple[float, float, np.ndarray]]:
    """Of every frame of a file: the seconds from and until which it is shown, and a picture uint8 (side, side, 3).

    The small pictures keep neither the aspect nor the orientation.
    """
    for picture in shown_frames(path):
        small = picture.frame.to_ndarray(format="rgb24", width=side, height=side, interpolation="AREA")
        yield picture.time, picture.end, small


def on_screen(pictures: np.ndarray, times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The pictures that are on screen at the `wanted` times, as `read_video` chooses them."""
    return pictures[np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 1)]
