"""Colour: log curves, primaries, HLG and sRGB, as pure functions of float32 arrays (spec sampling.md 13 and 14).

Colours stand on the last axis (..., 3), red first. "Linear" is scene light with 1 as diffuse white, not cut above.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from ltx_jax.errors import require

Primaries = Literal["rec709", "acescg"]
Curve = Literal["logc3", "acescct"]

_ACESCG_TO_REC709 = np.array([[1.70505, -0.62179, -0.08326], [-0.13026, 1.1408, -0.01055], [-0.024, -0.12897, 1.15297]])
_REC709_TO_REC2020 = np.array(
    [[0.62740389, 0.32928304, 0.04331307], [0.06909729, 0.9195404, 0.01136232], [0.01639144, 0.08801331, 0.89559525]]
)
_ACESCG_TO_REC2020 = np.array(
    [
        [1.02582475, -0.02005319, -0.00577156],
        [-0.00223437, 1.0045865, -0.00235213],
        [-0.00501335, -0.02529007, 1.03030342],
    ]
)
# Row r of a matrix gives the output's channel r (14.3). The way back to ACEScg is inverted in float64.
MATRICES: Mapping[tuple[str, str], np.ndarray] = {
    ("acescg", "rec709"): _ACESCG_TO_REC709.astype(np.float32),
    ("rec709", "acescg"): np.linalg.inv(_ACESCG_TO_REC709).astype(np.float32),
    ("rec709", "rec2020"): _REC709_TO_REC2020.astype(np.float32),
    ("acescg", "rec2020"): _ACESCG_TO_REC2020.astype(np.float32),
}


def convert(color: np.ndarray, source: str, target: str) -> np.ndarray:
    """Linear colours (..., 3) of one set of primaries in another (14.3), not cut to any range."""
    if source == target:
        return np.asarray(color, np.float32)
    require((source, target) in MATRICES, f"There is no way from the primaries '{source}' to '{target}'.")
    return np.asarray(color, np.float32) @ MATRICES[source, target].T


# --- log curves (14.2) ----------------------------------------------------------------------------------------------

# ARRI LogC3 at EI 800.
_A, _B, _C, _D, _E, _F, _CUT = 5.555556, 0.052272, 0.247190, 0.385537, 5.367655, 0.092809, 0.010591
# ACEScct: a line below its break, the logarithm above.
_SLOPE, _OFFSET, _BREAK, _CODE_BREAK = 10.5402377416545, 0.0729055341958355, 0.0078125, 0.155251141552511


def logc3(linear: np.ndarray) -> np.ndarray:
    """Light to LogC3 codes in [0, 1]."""
    x = np.maximum(np.asarray(linear, np.float32), 0)
    return np.clip(np.where(x >= _CUT, _C * np.log10(_A * x + _B) + _D, _E * x + _F), 0, 1).astype(np.float32)


def from_logc3(code: np.ndarray) -> np.ndarray:
    """LogC3 codes, cut to [0, 1], to light."""
    y = np.clip(np.asarray(code, np.float32), 0, 1)
    return np.where(y >= _E * _CUT + _F, (10 ** ((y - _D) / _C) - _B) / _A, (y - _F) / _E).astype(np.float32)


def acescct(linear: np.ndarray) -> np.ndarray:
    """Light to ACEScct codes in [0, 1]."""
    x = np.maximum(np.asarray(linear, np.float32), 0)
    high = (np.log2(np.maximum(x, 1e-12)) + 9.72) / 17.52
    return np.clip(np.where(x > _BREAK, high, _SLOPE * x + _OFFSET), 0, 1).astype(np.float32)


def from_acescct(code: np.ndarray) -> np.ndarray:
    """ACEScct codes, cut to [0, 1], to light."""
    y = np.clip(np.asarray(code, np.float32), 0, 1)
    return np.where(y > _CODE_BREAK, 2 ** (17.52 * y - 9.72), (y - _OFFSET) / _SLOPE).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class LogSpace:
    """A log curve with the primaries it belongs to: what networks see of light (14.2)."""

    compress: Callable[[np.ndarray], np.ndarray]
    decompress: Callable[[np.ndarray], np.ndarray]
    primaries: Primaries


LOG_SPACES: Mapping[str, LogSpace] = {
    "logc3": LogSpace(logc3, from_logc3, "rec709"),
    "acescct": LogSpace(acescct, from_acescct, "acescg"),
}


def to_log(linear: np.ndarray, curve: Curve, source: Primaries) -> np.ndarray:
    """Linear colours (..., 3) of `source` primaries as codes in [0, 1] of a curve's own primaries."""
    space = LOG_SPACES[curve]
    return space.compress(np.maximum(convert(linear, source, space.primaries), 0))


def from_log(code: np.ndarray, curve: Curve, target: Primaries) -> np.ndarray:
    """Codes (..., 3) of a curve as linear colours of `target` primaries, none below 0."""
    space = LOG_SPACES[curve]
    return np.maximum(convert(space.decompress(code), space.primaries, target), 0)


# --- HLG (14.4) -----------------------------------------------------------------------------------------------------

_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
WHITE_SIGNAL = 0.75  # where diffuse white stands


def hlg_light(signal: float) -> float:
    """The inverse of HLG's transfer function, of one value."""
    return signal**2 / 3 if signal <= 0.5 else (math.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12


def hlg_roll_off(white_signal: float = WHITE_SIGNAL) -> tuple[float, float]:
    """The light of diffuse white, and the rate of the roll-off above it that continues it without a kink."""
    white = hlg_light(white_signal)
    return white, white / (1 - white)


def hlg(
    linear: np.ndarray, primaries: Primaries = "rec709", white_signal: float = WHITE_SIGNAL, rate: float | None = None
) -> np.ndarray:
    """Linear colours (..., 3) as HLG signal of Rec.2020 in [0, 1]; highlights above diffuse white are rolled off.

    What is no number counts as 0. rate: of the roll-off, None for that of `hlg_roll_off`.
    """
    white, smooth = hlg_roll_off(white_signal)
    light = np.nan_to_num(np.maximum(convert(linear, primaries, "rec2020"), 0), nan=0.0, posinf=np.inf)
    above = 1 - (1 - white) * np.exp(-(smooth if rate is None else rate) * (np.maximum(light, 1) - 1))
    x = np.where(light <= 1, light * np.float32(white), above)
    high = _HLG_A * np.log(np.maximum(12 * x - _HLG_B, 1e-12)) + _HLG_C
    return np.clip(np.where(x <= 1 / 12, np.sqrt(3 * x), high), 0, 1).astype(np.float32)


# --- SDR ------------------------------------------------------------------------------------------------------------


def srgb(linear: np.ndarray) -> np.ndarray:
    """Light to sRGB signal (IEC 61966-2-1), cut to [0, 1]: what previews of light show."""
    x = np.clip(np.asarray(linear, np.float32), 0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055).astype(np.float32)


def to_vae_range(code: np.ndarray) -> np.ndarray:
    """Codes in [0, 1] as the video VAE sees them, in [-1, 1] (14.1). Raises UserError for codes outside."""
    code = np.asarray(code, np.float32)
    inside = code.size == 0 or (float(code.min()) >= 0 and float(code.max()) <= 1)
    require(inside, "Colours for the video VAE must lie within 0 and 1; compress light by a log curve first.")
    return 2 * code - 1


def from_vae_range(z: np.ndarray) -> np.ndarray:
    """What the video VAE makes as codes in [0, 1], cut where it leaves the range (14.1)."""
    return np.clip((np.asarray(z, np.float32) + 1) / 2, 0, 1)
