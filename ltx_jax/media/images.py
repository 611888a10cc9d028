"""Still images: reading, resizing to cover, contact sheets. NumPy in and out, channels last."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ltx_jax.errors import UserError
from ltx_jax.media.resize import covering, fill_crop

MARGIN = 2  # pixels between the frames of a contact sheet


def read_image(path: str | os.PathLike[str], height: int, width: int) -> np.ndarray:
    """The picture at `path`, covering height x width pixels, its middle kept: uint8 (height, width, 3) sRGB.

    Orientation is applied, alpha dropped, an embedded profile converted, resized bilinearly (spec sampling.md 9.1 and
    9.3; without the lossy re-compression). Raises UserError for a missing file or one that is no image.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no image '{path}'.")
    try:
        with Image.open(path) as image:
            image.load()
            picture = _to_srgb(ImageOps.exif_transpose(image) or image)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise UserError(f"'{path}' is no image that can be read; give a PNG or JPEG file.") from None
    filled = fill_crop(np.asarray(picture), height, width)
    return np.clip(np.rint(filled), 0, 255).astype(np.uint8)


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    plain = image.convert("RGB")
    if not profile:
        return plain
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        result = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"))
        return plain if result is None else result
    except ImageCms.PyCMSError:
        return plain


def cover(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (h, w, 3) until it covers height x width, then keep the middle: uint8 (height, width, 3).

    Bicubic with antialiasing (spec training.md 7.3: the other side is rounded down, offsets are halves rounded down).
    """
    resized_h, resized_w = covering((frame.shape[0], frame.shape[1]), (height, width))
    picture = Image.fromarray(frame)
    if (resized_h, resized_w) != frame.shape[:2]:
        picture = picture.resize((resized_w, resized_h), Image.Resampling.BICUBIC)
    top, left = (resized_h - height) // 2, (resized_w - width) // 2
    return np.asarray(picture)[top : top + height, left : left + width]


def contact_sheet(clips: Sequence[np.ndarray], path: str | os.PathLike[str], frames: int = 9, scale: int = 4) -> Path:
    """Write one PNG with a row per clip (uint8 (F, h, w, 3)): `frames` of its frames, evenly spread, enlarged."""
    if not clips:
        raise UserError("There is no clip to show on a contact sheet.")
    rows = []
    for clip in clips:
        chosen = clip[np.unique(np.linspace(0, len(clip) - 1, min(frames, len(clip))).round().astype(int))]
        large = chosen.repeat(scale, axis=1).repeat(scale, axis=2)
        framed = np.pad(large, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(framed), axis=1))
    return write_png(np.concatenate(rows), path)


def write_png(picture: np.ndarray, path: str | os.PathLike[str]) -> Path:
    """Write uint8 (h, w, 3) as a PNG, making its folder. Raises UserError when the name does not end in .png."""
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise UserError(f"The picture '{target}' must end in .png.")
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(target)
    return target
