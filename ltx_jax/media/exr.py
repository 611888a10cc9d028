"""OpenEXR pictures: linear light in and out, half floats on disk (spec sampling.md 14.4). Arrays are float32 (h, w, 3).

FFmpeg reads and writes the pixels. The attributes that tell their colours, which it does not know, are put into the
header here.
"""

import os
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from ltx_jax.errors import UserError, require
from ltx_jax.files import shown
from ltx_jax.media.color import Primaries
from ltx_jax.media.container import file_url, reason

# What a picture's colours are -> its primaries red, green, blue and white (x and y each), and the name of its space.
CHROMATICITIES: Mapping[str, tuple[float, ...]] = {
    "rec709": (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    "acescg": (0.713, 0.293, 0.165, 0.830, 0.128, 0.044, 0.32168, 0.33767),
}
SPACES: Mapping[str, tuple[Primaries, str]] = {  # of `--hdr`: primaries, and the attribute colorSpace
    "SRGB_LINEAR": ("rec709", "sRGB"),
    "ACESCG": ("acescg", "ACEScg"),
    "ACESCCT": ("acescg", "ACEScct"),
}
LARGEST = float(np.finfo(np.float16).max)
ROWS = 16  # of a chunk of ZIP compression
_HEADER = 8  # bytes of magic number and version, before the attributes


def write_exr(path: str | os.PathLike[str], picture: np.ndarray, space: str) -> Path:
    """Write light or codes (h, w, 3) of a space of SPACES as half floats, making the folder.

    What no half float holds becomes the largest one; what is no number becomes 0. Raises UserError for another ending
    than .exr, or a place that cannot be written.
    """
    target = Path(path)
    require(target.suffix.lower() == ".exr", f"The picture '{target}' must end in .exr.")
    finite = np.clip(np.nan_to_num(picture, nan=0.0, posinf=LARGEST, neginf=-LARGEST), -LARGEST, LARGEST)
    primaries, name = SPACES[space]
    attributes = _attribute("chromaticities", "chromaticities", struct.pack("<8f", *CHROMATICITIES[primaries]))
    attributes += _attribute("colorSpace", "string", name.encode())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(
            _with_attributes(_encoded(finite.astype(np.float16).astype(np.float32)), attributes, picture.shape[0])
        )
    except OSError as error:
        raise UserError(f"The picture '{target}' cannot be written ({reason(error)}).") from None
    return target


def read_exr(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture at `path`, as its numbers stand there: the first three channels, or one repeated.

    Raises UserError for a file that is missing or cannot be read.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no picture '{shown(path)}'.")
    try:
        with av.open(file_url(path), format="exr_pipe" if Path(path).suffix.lower() == ".exr" else None) as container:
            frame = next(container.decode(video=0))
    except (FFmpegError, StopIteration, ValueError, IndexError, OSError) as error:
        raise UserError(f"'{shown(path)}' is no EXR picture that can be read ({reason(error)}).") from None
    name = frame.format.name
    require("f32" in name or "f16" in name, f"'{shown(path)}' holds no floats but {name}; save it as half or float.")
    dtype = np.dtype(np.float32 if "f32" in name else np.float16).newbyteorder("<" if name.endswith("le") else ">")
    order = (0, 0, 0) if name.startswith("gray") else (2, 0, 1)  # planes are green, blue, red
    planes = [np.frombuffer(bytes(frame.planes[i]), dtype).reshape(frame.height, -1)[:, : frame.width] for i in order]
    return np.stack(planes, axis=-1).astype(np.float32)


def exr_frames(folder: str | os.PathLike[str]) -> list[Path]:
    """The EXR pictures of a folder, by name. Raises UserError when there are none."""
    found = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() == ".exr") if Path(folder).is_dir() else []
    require(bool(found), f"There are no EXR frames in '{shown(folder)}'.")
    return found


def _encoded(picture: np.ndarray) -> bytes:
    context = av.VideoCodecContext.create("exr", "w")
    context.width, context.height, context.pix_fmt = picture.shape[1], picture.shape[0], "gbrpf32le"
    context.time_base, context.options = Fraction(1, 24), {"compression": "zip16", "format": "half"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gbrpf32le")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode()])


def _attribute(name: str, kind: str, value: bytes) -> bytes:
    return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value


def _with_attributes(file: bytes, attributes: bytes, rows: int) -> bytes:
    """The file with attributes first in its header; its table of offsets, at the header's end, moves along."""
    end = _HEADER
    while file[end] != 0:  # name, type, size, value
        kind = file.index(b"\0", end) + 1
        size = file.index(b"\0", kind) + 1
        end = size + 4 + struct.unpack_from("<i", file, size)[0]
    chunks, table = -(-rows // ROWS), end + 1
    offsets = np.frombuffer(file, "<u8", chunks, table) + np.uint64(len(attributes))
    head = file[:_HEADER] + attributes + file[_HEADER:table]
    return head + offsets.tobytes() + file[table + 8 * chunks :]
