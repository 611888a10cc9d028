"""Recorded cases of colour: log curves, primaries, HLG, YUV codes, sRGB (spec sampling.md 13, 14).

Recordings have colours on axis 1, or on the last one where their kind says so; ours always on the last.
"""

from collections.abc import Callable

import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.media import color, yuv

Outputs = dict[str, np.ndarray]
MATRICES: dict[str, yuv.Matrix] = {"bt709": "bt709", "bt2020ncl": "bt2020"}


def _last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def _first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


def _transfer(case: Case) -> Outputs:
    space = color.LOG_SPACES[case.config["transfer"]]
    return {
        "compressed": space.compress(case.inputs["linear"]),
        "decompressed": space.decompress(case.inputs["code"]),
    }


def _working_space(case: Case) -> Outputs:
    curve, primaries = case.config["transfer"], case.config["primaries"]
    return {
        "working": _first(color.to_log(_last(case.inputs["linear"]), curve, primaries)),
        "linear_back": _first(color.from_log(_last(case.inputs["code"]), curve, primaries)),
    }


def _hlg(case: Case) -> Outputs:
    c = case.config
    signal = color.hlg(case.inputs["linear"], c["primaries"], c["white_signal"], c["rolloff_k"])
    y, u, v = yuv.planes(signal, "bt2020", bits=10)
    white, smooth = color.hlg_roll_off(c["white_signal"])
    rate = smooth if c["rolloff_k"] is None else c["rolloff_k"]
    return {
        "signal": _first(signal), "y": y, "u": u, "v": v, "white_x": np.array([white]), "roll_k": np.array([rate]),
    }  # fmt: skip


def _yuv420(case: Case) -> Outputs:
    rgb, matrix = _last(case.inputs["rgb"]), MATRICES[case.config["color_space"]]
    full = case.config["color_range"] == "jpeg"
    luma, chroma = yuv.levels(rgb, matrix, full_range=full)
    y, u, v = yuv.planes(rgb, matrix, bits=10, full_range=full)
    return {
        "yuv": _first(yuv.yuv(rgb, matrix)), "y_levels": luma[:, None], "uv_levels": _first(chroma),
        "i420": yuv.packed(*yuv.planes(rgb, matrix, full_range=full)), "y10": y, "u10": u, "v10": v,
    }  # fmt: skip


def _srgb(case: Case) -> Outputs:
    signal = color.srgb(case.inputs["linear"])
    return {"srgb": signal, "code8": np.rint(signal * 255).astype(np.int32)}


def _vae_range(case: Case) -> Outputs:
    return {
        "to_vae": color.to_vae_range(case.inputs["unit"]),
        "from_vae": color.from_vae_range(case.inputs["vae"]),
    }


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "color.transfer": _transfer,
    "color.working_space": _working_space,
    "color.hlg": _hlg,
    "color.yuv420": _yuv420,
    "color.srgb": _srgb,
    "image.vae_range": _vae_range,
}
