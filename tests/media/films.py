"""Small films in any container: bars in the picture tell the frame's number, a tone begins at second 2."""

from fractions import Fraction

import av
import numpy as np

from ltx_jax.media.video import read_audio, read_video

HEIGHT, WIDTH, FPS, FRAMES, RATE, TONE = 48, 64, 25, 100, 48000, 2.0
PROGRAM = {"video": "mpeg2video", "sound": "mp2"}
WEB = {"video": "libvpx", "sound": "libopus"}
# what each container is filled with, by the ending of its name
KINDS = {
    "mp4": {}, "mov": {"sound": "pcm_s16le"}, "mkv": {"sound": "flac"}, "webm": WEB, "ts": {}, "m2ts": {"sound": "ac3"},
    "mpg": PROGRAM, "vob": PROGRAM, "flv": {"rate": 44100}, "ogv": WEB | {"format": "ogg"},
    "avi": {"video": "mpeg4", "sound": "pcm_s16le"},
}  # fmt: skip


def bars(number):
    """Eight bars of 8 pixels, white where a bit of the number is set."""
    bits = 30 + 190 * (number >> np.arange(8) & 1)
    return np.broadcast_to(bits.repeat(WIDTH // 8)[None, :, None], (HEIGHT, WIDTH, 3)).astype(np.uint8)


def number(picture):
    """The number that the bars of a picture stand for."""
    middles = picture[HEIGHT // 4 : -HEIGHT // 4, 4 :: WIDTH // 8].mean(axis=(0, 2)) > 125
    return int((middles << np.arange(8)).sum())


def make(
    path, video="libx264", sound="aac", rate=RATE, frames=FRAMES, late=None, format=None, pictures=None, options=None,
    prepare=None, at=None, tag=None,
):  # fmt: skip
    """late: seconds by stream kind that are added to its times. at: second of a frame. prepare: is given the film."""
    with av.open(f"file:{path}", "w", format=format) as out:
        film = out.add_stream(video, rate=FPS, options={"g": "12", "bf": "2"} | (options or {}))
        film.height, film.width = (bars(0) if pictures is None else pictures[0]).shape[:2]
        film.pix_fmt = "yuv420p"
        film.codec_context.time_base = Fraction(1, 1000 if at else FPS)
        film.metadata.update(tag or {})
        if prepare:
            prepare(film)
        tone = out.add_stream(sound, rate=rate, layout="stereo") if sound else None
        packets = []
        for i in range(frames):
            picture = bars(i) if pictures is None else pictures[i]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=film.pix_fmt)
            frame.time_base = film.codec_context.time_base
            frame.pts = round(at(i) * 1000) if at else i
            packets += film.encode(frame)
        packets += film.encode()
        if tone:
            packets += _tone(tone, rate, int(frames / FPS * rate))
        shift = lambda packet: (late or {}).get(packet.stream.type, 0.0)
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base) + shift(p)):
            ticks = round(shift(packet) / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            out.mux(packet)
    return path


def _tone(stream, rate, samples):
    time = np.arange(samples) / rate
    wave = (0.5 * np.sin(2 * np.pi * 440 * time) * (time >= TONE)).astype(np.float32)
    step, packets = stream.codec_context.frame_size or 1024, []
    for start in range(0, samples, step):
        frame = av.AudioFrame.from_ndarray(np.stack([wave[start : start + step]] * 2), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        packets += stream.encode(frame)
    return packets + stream.encode()


def copy(source, target, keep=lambda packet: True, late=0.0):
    """The packets of a file in another one, without those that are not kept."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        streams = {stream.index: write.add_stream_from_template(stream) for stream in read.streams}
        for packet in read.demux():
            if packet.dts is not None and keep(packet):
                ticks = round(late / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = streams[packet.stream.index]
                write.mux(packet)
    return target


def numbers(path, start=0.0, count=4, fps=2.0):
    """The numbers of the frames that are on screen."""
    video = read_video(path, frames=count, fps=fps, height=HEIGHT, width=WIDTH, start=start)
    return [number(picture) for picture in video]


def onset(path, start=0.0, seconds=2.0):
    """The second at which the tone begins."""
    wave, heard = read_audio(path, samples=int(seconds * 16000), sample_rate=16000, start=start)
    assert heard and np.abs(wave[0]).max() > 0.3
    return start + np.argmax(np.abs(wave[0]) > 0.1) / 16000
