"""Scene light in and out of the model: EXR pictures to codes that networks know, codes to EXR frames and an HLG film.

Codes are ACEScct in [0, 1] (spec sampling.md 14.4). Arrays are float32, colours on the last axis.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ltx_jax.errors import require
from ltx_jax.media import color, exr
from ltx_jax.media.coding import HLG
from ltx_jax.media.resize import fill_crop, fit_pad
from ltx_jax.media.video import write_video


def check_space(space: str) -> str:
    """The name of a space as it is known, whatever its case. Raises UserError for another."""
    require(space.upper() in exr.SPACES, f"There is no light space '{space}'; choose one of {', '.join(exr.SPACES)}.")
    return space.upper()


def read_light(
    path: str | os.PathLike[str], height: int, width: int, space: str, *, reference: bool = False
) -> np.ndarray:
    """The EXR picture at `path` as codes (height, width, 3), filling the size and cropped.

    space: what the file's colours are. reference: keep all of it, padded by reflection, as frames of a reference video
    are. Raises UserError as `read_exr`.
    """
    fitted = (fit_pad if reference else fill_crop)(exr.read_exr(path), height, width)
    if space == "ACESCCT":
        return np.clip(fitted, 0, 1)
    return color.to_log(fitted, "acescct", exr.SPACES[space][0])


def exr_folder(path: str | os.PathLike[str]) -> Path:
    """Where the EXR frames of a film at `path` lie."""
    target = Path(path)
    return target.with_name(f"{target.stem}_exr")


def write_light(
    path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: float, space: str,
    audio: np.ndarray | None = None, sample_rate: int = 16000, metadata: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write frames of codes (h, w, 3) as EXR pictures of a space, in `exr_folder`, and as the film of HLG at `path`.

    Frames may be made as they are written; frames of an earlier film there make room. Raises UserError as `write_video`
    and `write_exr`, and then leaves what was there.
    """
    folder = exr_folder(path)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")

    def lit() -> Iterator[np.ndarray]:
        for number, codes in enumerate(frames):
            film = color.from_log(codes, "acescct", "rec709")
            picture = film
            if space == "ACESCCT":
                picture = codes
            elif (primaries := exr.SPACES[space][0]) != "rec709":
                picture = color.from_log(codes, "acescct", primaries)
            exr.write_exr(temporary / f"frame_{number:05d}.exr", picture, space)
            yield film

    try:
        target = write_video(path, lit(), fps, audio, sample_rate, metadata, coding=HLG)
        folder.mkdir(exist_ok=True)
        for old in folder.glob("frame_*.exr"):
            old.unlink()
        for new in temporary.iterdir():
            new.rename(folder / new.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
