"""Recorded cases of media and data: buckets, resizing, thinning (spec training.md 7, sampling.md 9.3).

Recordings of frames are channels-first.
"""

from collections.abc import Callable

import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.data.buckets import fit, temporal_subsample
from ltx_jax.errors import UserError
from ltx_jax.media import resize
from ltx_jax.media.audio import to_stereo

Outputs = dict[str, np.ndarray]


def _bucket(case: Case) -> Outputs:
    buckets = [(int(f), int(h), int(w)) for f, h, w in case.config["buckets_fhw"]]
    fits = [fit((int(f), int(h), int(w)), buckets) for f, h, w in case.inputs["video_fhw"]]
    if any(f is None for f in fits):
        raise UserError("A recorded video is shorter than every bucket.")
    names = {"bucket_fhw": "bucket", "resized_hw": "resized", "crop_tlhw": "crop"}
    return {name: np.array([getattr(f, field) for f in fits]) for name, field in names.items()}


def _resize_crop(case: Case) -> Outputs:
    height, width = case.config["target_hw"]
    frames = case.inputs["frames"]
    resized = resize.covering(frames.shape[2:], (height, width))
    result = np.stack([resize.resize_crop(f.transpose(1, 2, 0), height, width) for f in frames]).transpose(0, 3, 1, 2)
    crop = ((resized[0] - height) // 2, (resized[1] - width) // 2, height, width)
    return {
        "frames": result, "normalised": 2 * np.clip(result, 0, 1) - 1,
        "resized_hw": np.array(resized), "crop_tlhw": np.array(crop),
    }  # fmt: skip


def _subsample(case: Case) -> Outputs:
    result = {}
    for name in case.outputs:
        frames, factor = (int(part) for part in name.split("_")[1:])
        result[name] = np.array(temporal_subsample(frames, factor))
    return result


def _downmix(case: Case) -> Outputs:
    return {name.replace("wave", "stereo"): to_stereo(wave) for name, wave in case.inputs.items()}


def _preprocess(case: Case) -> Outputs:
    image, target, mode = case.inputs["image"], [int(n) for n in case.config["target"]], case.config["mode"]
    known = {"long_side": resize.long_side, "center_crop": resize.fill_crop, "reflect_pad": resize.fit_pad}
    if mode not in known:
        raise UserError(f"The resize mode '{mode}' is not known.")
    frames = image if image.ndim == 4 else image[None]
    result = np.stack([known[mode](f, *target) for f in frames], axis=0)  # (f, h, w, 3)
    if mode == "long_side":  # whose recordings keep the layout
        result = result.reshape(*image.shape[:-3], *result.shape[1:])
    else:
        result = result.transpose(3, 0, 1, 2)[None]
    return {"resized": result, "vae_range": result / np.float32(127.5) - 1}


def _align(case: Case) -> Outputs:
    """Sizes (generated width, height, and those to crop back to) of padding up and of cropping down."""
    rows = lambda up: [[*(resize.aligned(n, d, up=up) for n in (w, h)), w, h] for w, h, d in case.config["cases"]]
    return {"center_crop": np.array(rows(False)), "reflect_pad": np.array(rows(True))}


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "training.bucket": _bucket,
    "training.resize_crop": _resize_crop,
    "training.temporal_subsample": _subsample,
    "training.audio_downmix": _downmix,
    "image.preprocess": _preprocess,
    "image.align_resolution": _align,
}
