"""RGB to YUV 4:2:0 of 8 and 10 bits by the matrices and roundings of the spec (sampling.md 14.5).

Signals are float32 (..., h, w, 3) in [0, 1]. FFmpeg's own conversion rounds otherwise.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ltx_jax.errors import require

Matrix = Literal["bt709", "bt2020"]

_KR, _KG, _KB = 0.2627, 0.6780, 0.0593  # Rec.2020, constants of the non-constant luminance form
MATRICES: Mapping[str, np.ndarray] = {
    "bt709": np.array([[0.2126, 0.7152, 0.0722], [-0.1146, -0.3854, 0.5], [0.5, -0.4542, -0.0458]], np.float32),
    "bt2020": np.array(
        [[_KR, _KG, _KB], [-_KR / 1.8814, -_KG / 1.8814, 0.5], [0.5, -_KG / 1.4746, -_KB / 1.4746]], np.float32
    ),
}


def yuv(rgb: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Luma in [0, 1] and both chromas in [-0.5, 0.5] of a signal, (..., h, w, 3)."""
    return np.asarray(rgb, np.float32) @ MATRICES[matrix].T


def levels(
    rgb: np.ndarray, matrix: Matrix, *, bits: int = 8, full_range: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Codes before they become whole numbers: luma (..., h, w) and chroma (..., h/2, w/2, 2), of limited range or full.

    Chroma is the mean of 2 x 2 pixels. Raises UserError for odd sizes.
    """
    h, w = rgb.shape[-3:-1]
    require(h % 2 == 0 and w % 2 == 0, f"A picture in 4:2:0 needs even height and width, not {h} x {w}.")
    signal = yuv(rgb, matrix)
    pairs = signal[..., 1:].reshape(*signal.shape[:-3], h // 2, 2, w // 2, 2, 2)
    luma, chroma = signal[..., 0], pairs.mean(axis=(-4, -2))
    if full_range:
        top = np.float32(2**bits - 1)
        return luma * top, (chroma + np.float32(0.5)) * top
    unit = np.float32(2 ** (bits - 8))
    return (219 * luma + 16) * unit, (224 * chroma + 128) * unit


def planes(
    rgb: np.ndarray, matrix: Matrix, *, bits: int = 8, full_range: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y (..., h, w), U and V (..., h/2, w/2) as uint8 or uint16 codes: of 8 bits cut off, of 10 rounded to even."""
    whole = np.trunc if bits == 8 else np.rint
    kind = np.uint8 if bits == 8 else np.uint16
    luma, chroma = levels(rgb, matrix, bits=bits, full_range=full_range)
    y, uv = (whole(np.clip(codes, 0, 2**bits - 1)).astype(kind) for codes in (luma, chroma))
    return y, uv[..., 0], uv[..., 1]


def packed(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Planes as one I420 array (..., h * 3/2, w), whose bytes are Y, then U, then V."""
    *lead, h, w = y.shape
    flat = [plane.reshape(*lead, -1) for plane in (y, u, v)]
    return np.concatenate(flat, axis=-1).reshape(*lead, h * 3 // 2, w)
