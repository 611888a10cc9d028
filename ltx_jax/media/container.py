"""An opened media file: which streams are its film and its sound, and their frames, damaged packets passed over."""

import contextlib
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Disposition

from ltx_jax.errors import UserError
from ltx_jax.files import shown

FILE = "file:"
STILL_CODECS = {"mjpeg", "png", "bmp", "webp", "tiff", "jpegxl"}  # what covers are stored in
# Tags in another encoding than UTF-8 must not hinder: from PyAV 19 on they never do, and it has no such argument.
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
PATIENCE = 64  # failed reads one after the other, after which the rest of a file is given up


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[av.container.InputContainer]:
    """The file at `path`, closed afterwards. Raises UserError when it is absent or no media file."""
    if not Path(path).is_file():
        raise UserError(f"There is no video '{shown(path)}'.")
    try:
        container = av.open(file_url(path), **_METADATA)
    except (FFmpegError, ValueError, OSError) as error:
        raise UserError(f"'{shown(path)}' is no video that can be read ({reason(error)}).") from None
    with container:
        yield container


def file_url(path: str | os.PathLike[str]) -> str:
    """How FFmpeg is told of a file, so that no name ("take:1.mp4", "concat:a|b") is taken for a protocol."""
    return FILE + os.fspath(path)


def name_of(container: av.container.Container) -> str:
    """The path that a container was opened with, for people."""
    return shown(container.name.removeprefix(FILE))


def tick(stream: av.stream.Stream) -> Fraction:
    """Seconds of one tick of a stream's clock."""
    return stream.time_base or Fraction(0)


def find_film(container: av.container.InputContainer) -> av.VideoStream | None:
    """The best video stream, never a cover picture; None when there is none that can be decoded."""
    films = [s for s in container.streams.video if s.codec_context is not None and not _is_cover(s)]
    moving = [s for s in films if s.codec_context.name not in STILL_CODECS] or films
    best = container.streams.best("video")
    film = best if best in moving else max(moving, key=lambda s: Disposition.default in s.disposition, default=None)
    if film is not None:
        film.thread_type = "SLICE"  # frame threads report a damaged packet late, and may lose good frames with it
    return film


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def find_sound(container: av.container.InputContainer, film: av.VideoStream | None = None) -> av.AudioStream | None:
    """The best sound stream beside `film`; None when there is none that can be decoded."""
    sounds = [s for s in container.streams.audio if s.codec_context is not None]
    best = container.streams.best("audio", related=film)
    return best if best in sounds else next(iter(sounds), None)


def packets(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator[av.Packet]:
    """The packets of a stream from the current position on. Damaged places of the container are passed over."""
    failures = 0
    while failures < PATIENCE:
        try:
            for packet in container.demux(stream):
                failures = 0
                if packet.size:  # an empty one would end the decoding: PyAV's last, and an AVI's dropped frames
                    yield packet
            return
        except FFmpegError:
            failures += 1
        except IndexError:  # PyAV's at the end of a file whose streams were not all known at its beginning
            return


def decoded(container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream) -> Iterator:
    """The frames of a stream from the current position on. Packets that cannot be decoded are passed over."""
    for packet in packets(container, stream):
        with contextlib.suppress(FFmpegError):
            yield from stream.decode(packet)
    with contextlib.suppress(FFmpegError):
        yield from stream.decode(None)


def seek(container: av.container.InputContainer, stream: av.stream.Stream, seconds: float) -> bool:
    """Go to `seconds` of a stream's own clock, or a little before; False when the file cannot do that."""
    try:
        container.seek(math.floor(seconds / stream.time_base), stream=stream)
        return True
    except FFmpegError:
        return False


def reason(error: Exception) -> str:
    """The first line of what an error says."""
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0][:100] if text else type(error).__name__
