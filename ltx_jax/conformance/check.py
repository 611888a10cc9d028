"""Run recorded cases through the real code and compare.

The table says which module answers for which kinds; each such module has a dict `KINDS` from kind to a function
`(Case) -> {output name: array}`. A later part only adds a row here, or an entry to its module's dict.
"""

import dataclasses
import importlib
from collections.abc import Callable

import jax
import numpy as np

from ltx_jax.conformance.case import Case, read_case
from ltx_jax.errors import UserError
from ltx_jax.parallel.mesh import MeshConfig, make_mesh

# First components of a kind -> the module that answers; the longest match wins.
AREAS = {
    "dit": "ltx_jax.conformance.dit",
    "text": "ltx_jax.conformance.text",
    "video_vae": "ltx_jax.conformance.video_vae",
    "video_vae.diffusion_decode": "ltx_jax.conformance.diffusion_decoder",
    **{name: "ltx_jax.conformance.upsampler" for name in ("upsampler", "diffusion.upsample_wrap")},
    "audio_vae": "ltx_jax.conformance.audio_vae",
    "audio": "ltx_jax.conformance.audio",
    "diffusion": "ltx_jax.conformance.diffusion",
    "diffusion.pipeline": "ltx_jax.conformance.pipeline",
    **{f"diffusion.{name}": "ltx_jax.conformance.tiles" for name in ("latent_tiling", "dfr")},
    **{f"diffusion.{name}": "ltx_jax.conformance.sampler" for name in ("trajectory", "guidance.denoiser")},
    "diffusion.duration_frames": "ltx_jax.conformance.text",
    "diffusion.condition": "ltx_jax.conformance.condition",
    "diffusion.keyframe_positions": "ltx_jax.conformance.condition",
    **{f"training.{n}": "ltx_jax.conformance.condition" for n in ("mask", "tiled_encode")},
    "training": "ltx_jax.conformance.training",
    "families": "ltx_jax.conformance.families",
    "image": "ltx_jax.conformance.media",
    **{name: "ltx_jax.conformance.color" for name in ("color", "image.vae_range")},
    **{f"training.{n}": "ltx_jax.conformance.media" for n in ("bucket", "resize_crop", "temporal_subsample")},
    "training.audio_downmix": "ltx_jax.conformance.media",
    **{name: "ltx_jax.conformance.lora" for name in ("training.lora_keys", "training.lora_apply", "dit.lora_merge")},
}

Runner = Callable[[Case], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class OutputResult:
    """One output: error is the largest |difference| / (atol + rtol |recorded|); passes at <= 1."""

    name: str
    error: float
    difference: float
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None and self.error <= 1


def runner(kind: str) -> Runner:
    """The function that runs cases of `kind`. Raises UserError when the kind is not known (yet)."""
    for depth in range(kind.count(".") + 1, 0, -1):
        area = ".".join(kind.split(".")[:depth])
        if area in AREAS:
            kinds: dict[str, Runner] = importlib.import_module(AREAS[area]).KINDS
            if kind in kinds:
                return kinds[kind]
            break
    raise UserError(f"The kind '{kind}' is not known yet.")


def run_case(case: Case) -> list[OutputResult]:
    """Run one case in float32 at the highest matmul precision and compare every recorded output."""
    run = runner(case.kind)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])), jax.default_matmul_precision("highest"):
        ours = run(case)
    return [_compare(name, recorded, ours.get(name), case) for name, recorded in case.outputs.items()]


def check_file(path: str) -> tuple[str, list[OutputResult]]:
    """Read and run the case at `path`: (kind, results). Raises UserError as `read_case` and `runner`."""
    case = read_case(path)
    return case.kind, run_case(case)


def _compare(name: str, recorded: np.ndarray, ours: np.ndarray | None, case: Case) -> OutputResult:
    if ours is None:
        return OutputResult(name, np.inf, np.inf, "not produced")
    ours = np.asarray(ours)
    if ours.shape != recorded.shape:
        return OutputResult(name, np.inf, np.inf, f"shape {ours.shape} instead of {recorded.shape}")
    exact = recorded.dtype == bool or np.issubdtype(recorded.dtype, np.integer)
    a, b = ours.astype(np.float64), recorded.astype(np.float64)
    difference = np.where(a == b, 0.0, np.abs(a - b))  # equal infinities differ by nothing
    largest = float(np.max(difference, initial=0.0)) if not np.isnan(difference).any() else np.inf
    if exact:
        return OutputResult(name, 0.0 if largest == 0 else np.inf, largest)
    bound = case.atol + case.rtol * np.abs(b)
    ratio = np.divide(difference, bound, out=np.where(difference == 0, 0.0, np.inf), where=bound > 0)
    return OutputResult(name, float(np.max(ratio, initial=0.0)) if largest < np.inf else np.inf, largest)
