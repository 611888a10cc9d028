"""Still images: reading, resizing to cover, contact sheets. NumPy in and out, channels last."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from ltx_jax.errors import UserError
from ltx_jax.files import shown
from ltx_jax.media.resize import covering, fill_crop

MARGIN = 2  # pixels between the frames of a contact sheet


def read_image(path: str | os.PathLike[str], height: int, width: int) -> np.ndarray:
    """The picture at `path`, covering height x width pixels, its middle kept: uint8 (height, width, 3) sRGB.

    Orientation is applied, alpha dropped, an embedded profile converted, resized bilinearly (spec sampling.md 9.1 and
    9.3; without the lossy re-compression). Of several frames it is the first; deeper greys are brought to 8 bit.
    Raises UserError for a missing file, one that is no image, and one of too many pixels.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no image '{shown(path)}'.")
    try:
        with Image.open(path) as image:
            pixels = _pixels(_upright(_in_eight_bits(image)))
    except Image.DecompressionBombError:
        most = (Image.MAX_IMAGE_PIXELS or 0) * 2 // 1_000_000
        raise UserError(f"The image '{shown(path)}' has more than {most} million pixels; give a smaller one.") from None
    except UserError as error:
        raise UserError(f"The image '{shown(path)}' {error}") from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        raise UserError(f"'{shown(path)}' is no image that can be read ({error}); give a PNG or JPEG file.") from None
    filled = fill_crop(pixels, height, width)
    return np.clip(np.rint(filled), 0, 255).astype(np.uint8)


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits or floats with 8 bits, by the smallest usual range that holds them; others are left alone.

    Pillow itself would clip them at 255. Raises UserError for values that no range holds.
    """
    image.load()
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    ranges = {"F": (1, 255, 65535), "I": (65535, 2**31 - 1)}.get(image.mode, (65535,))
    top = next((top for top in ranges if low >= 0 and high <= top), None)
    if top is None:
        raise UserError(f"holds greys from {low:g} to {high:g}: save it with 8 or 16 bits.")
    # of 16 bits the upper eight, as Pillow takes them of colours
    eight = values // 256 if top == 65535 else np.rint(values * (255 / top))
    grey = Image.fromarray(eight.astype(np.uint8))
    grey.info = image.info
    return grey


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # a damaged EXIF block says nothing of the orientation, the picture is still there
        return image


def _pixels(image: Image.Image) -> np.ndarray:
    """sRGB values uint8 (h, w, 3)."""
    profile = image.info.get("icc_profile")
    plain = image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        stored = image if image.mode in ("CMYK", "L", "LAB") else plain  # what the profile speaks of
        result = ImageCms.profileToProfile(stored, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return np.asarray(result)
    except (ImageCms.PyCMSError, OSError):  # none, one that cannot be read, or one of other colours
        return np.asarray(plain)


def cover(frame: np.ndarray, height: int, width: int, shown: tuple[int, int] | None = None) -> np.ndarray:
    """Resize uint8 (h, w, 3) until it covers height x width, then keep the middle: uint8 (height, width, 3).

    shown: (height, width) that the frame would have on square pixels, where its own are not. Bicubic with
    antialiasing (spec training.md 7.3: the other side is rounded down, offsets are halves rounded down).
    """
    resized_h, resized_w = covering(shown or (frame.shape[0], frame.shape[1]), (height, width))
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
