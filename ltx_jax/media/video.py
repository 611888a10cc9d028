"""Video files through PyAV: H.264 with AAC out, anything FFmpeg reads in. NumPy on this side, channels last."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from ltx_jax.errors import UserError
from ltx_jax.media.audio import resample, to_stereo
from ltx_jax.media.images import cover

CRF = "18"
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
    path: str | os.PathLike[str], video: np.ndarray, fps: float, audio: np.ndarray | None = None,
    sample_rate: int = 16000, metadata: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write frames uint8 (F, h, w, 3) and sound float32 (2, L) as H.264 (yuv420p) and AAC, ready to stream.

    metadata: strings, kept under their own names. The file appears whole or not at all. Raises UserError for an
    ending that is no video, odd sizes or no frames.
    """
    target = Path(path)
    if target.suffix.lower() not in ENDINGS:
        raise UserError(f"The output '{target}' is no video: its name must end in {', '.join(ENDINGS)}.")
    if video.ndim != 4 or len(video) == 0 or video.shape[1] % 2 or video.shape[2] % 2:
        raise UserError(f"A video needs frames of even height and width, not an array of shape {video.shape}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    # faststart alone drops metadata keys that MP4 does not know
    options = {"movflags": "faststart+use_metadata_tags"} if target.suffix.lower() != ".mkv" else {}
    try:
        with av.open(str(temporary), "w", options=options) as container:
            container.metadata.update(dict(metadata or {}))
            picture = _video_stream(container, video, fps)
            sound = None if audio is None else container.add_stream("aac", rate=sample_rate, layout="stereo")
            _encode_video(container, picture, video)
            if sound is not None and audio is not None:
                _encode_audio(container, sound, audio, sample_rate)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _video_stream(container: av.container.OutputContainer, video: np.ndarray, fps: float) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": CRF})
    stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], "yuv420p"
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
    context.color_range = 1  # limited
    return stream


def _encode_video(container: av.container.OutputContainer, stream: av.VideoStream, video: np.ndarray) -> None:
    for picture in video:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        container.mux(stream.encode(frame))
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
    """The strings stored in a file, as `write_video` took them."""
    with _open(path) as container:
        return dict(container.metadata)


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """What the file is, after decoding its first frame. Raises UserError when it holds no readable video."""
    with _open(path) as container:
        stream = _stream(container, path)
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise UserError(f"'{path}' says no frame rate.")
        first = next(_decode(container, stream, path), None)
        if first is None:
            raise UserError(f"'{path}' has no frame that can be decoded.")
        seconds = _seconds(container, stream, float(rate))
        return VideoInfo(stream.frames, float(rate), seconds, first.height, first.width, bool(container.streams.audio))


def read_video(
    path: str | os.PathLike[str], *, frames: int, fps: float, height: int, width: int, start: float = 0.0
) -> np.ndarray:
    """`frames` frames from `start` seconds on at `fps`: uint8 (frames, height, width, 3), covering and cropped.

    Each output time shows the frame that is on screen then; a file that ends early holds its last frame. Raises
    UserError when nothing can be decoded from there on.
    """
    wanted = start + np.arange(frames) / fps
    result = np.empty((frames, height, width, 3), np.uint8)
    done, shown = 0, None
    for time, frame in _timed_frames(path, start):
        while done < frames and shown is not None and wanted[done] < time - 1e-6:
            result[done], done = shown, done + 1
        if done == frames:
            break
        shown = cover(_upright(frame), height, width)
    if shown is None:
        raise UserError(f"'{path}' has no frame that can be decoded from second {start:.2f} on.")
    result[done:] = shown
    return result


def read_all(path: str | os.PathLike[str], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Every frame of a file, covering height x width, and its time in seconds: uint8 (n, height, width, 3), (n,)."""
    pairs = [(time, cover(_upright(frame), height, width)) for time, frame in _timed_frames(path, 0.0)]
    if not pairs:
        raise UserError(f"'{path}' has no frame that can be decoded.")
    return np.stack([picture for _, picture in pairs]), np.array([time for time, _ in pairs])


def thumbnails(path: str | os.PathLike[str], side: int) -> Iterator[tuple[float, np.ndarray]]:
    """Time in seconds and a small picture uint8 (side, side, 3), its aspect not kept, of every frame of a file."""
    for time, frame in _timed_frames(path, 0.0):
        yield time, frame.to_ndarray(format="rgb24", width=side, height=side, interpolation="AREA")


def on_screen(pictures: np.ndarray, times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The pictures that are on screen at the `wanted` times, as `read_video` chooses them."""
    return pictures[np.clip(np.searchsorted(times - 1e-6, wanted, side="right") - 1, 0, len(times) - 1)]


def _timed_frames(path: str | os.PathLike[str], start: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames with their times in seconds from the file's first, beginning at or before `start`."""
    with _open(path) as container:
        stream = _stream(container, path)
        base = stream.time_base
        if start > 0 and base:
            container.seek(int(start / base) + (stream.start_time or 0), stream=stream)
        origin = float(stream.start_time * base) if stream.start_time and base else 0.0
        for frame in _decode(container, stream, path):
            yield (frame.time or 0.0) - origin, frame


def read_audio(
    path: str | os.PathLike[str], *, samples: int, sample_rate: int, start: float = 0.0
) -> tuple[np.ndarray, bool]:
    """Stereo sound float32 (2, samples) at `sample_rate` from `start` seconds on, and whether the file has any.

    Without a sound track, or where it has ended, there is silence. Channels are mixed to two (spec audio_vae.md 3).
    """
    silence = np.zeros((2, samples), np.float32)
    with _open(path) as container:
        if not container.streams.audio:
            return silence, False
        stream = container.streams.audio[0]
        stop = start + samples / sample_rate
        pieces, first = [], None
        if start > 0 and stream.time_base:
            container.seek(int(max(0.0, start - 0.5) / stream.time_base), stream=stream)
        try:
            for frame in container.decode(stream):
                time = frame.time or 0.0
                if time > stop:
                    break
                first = time if first is None else first
                pieces.append(_float_samples(frame))
        except FFmpegError:
            pass  # what was decoded so far is kept; the rest is silence
    if not pieces or first is None:
        return silence, False
    rate = stream.rate
    wave = np.concatenate(pieces, axis=1)
    skip = round((start - first) * rate)
    wave = wave[:, skip:] if skip >= 0 else np.pad(wave, ((0, 0), (-skip, 0)))
    wave = resample(to_stereo(wave[:, : int(samples / sample_rate * rate) + 2]), rate, sample_rate)[:, :samples]
    silence[:, : wave.shape[1]] = wave
    return silence, wave.shape[1] > 0


def _open(path: str | os.PathLike[str]) -> av.container.InputContainer:
    if not Path(path).is_file():
        raise UserError(f"There is no video '{path}'.")
    try:
        return av.open(str(path))
    except (FFmpegError, ValueError, OSError) as error:
        raise UserError(f"'{path}' is no video that can be read ({_reason(error)}).") from None


def _stream(container: av.container.InputContainer, path: str | os.PathLike[str]) -> av.VideoStream:
    if not container.streams.video:
        raise UserError(f"'{path}' has no video track.")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream, path: str | os.PathLike[str]
) -> Iterator[av.VideoFrame]:
    try:
        yield from container.decode(stream)
    except (FFmpegError, ValueError, OSError) as error:
        raise UserError(f"'{path}' cannot be decoded ({_reason(error)}).") from None


def _seconds(container: av.container.InputContainer, stream: av.VideoStream, rate: float) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / av.time_base
    return stream.frames / rate


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """RGB pixels, turned as the file's display matrix asks."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _float_samples(frame: av.AudioFrame) -> np.ndarray:
    """(channels, samples) float32 in [-1, 1], whatever the sample format."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.float32) / float(1 << (8 * values.dtype.itemsize - 1))
    return values.astype(np.float32)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0][:100] if text else type(error).__name__
