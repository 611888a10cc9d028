"""A model measured on prompts of the toy world: its clips, or what its autoencoders make of true ones."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from ltx_jax.bundle import Bundle, networks_on
from ltx_jax.codec import audio_means, audio_waveform, decode_means, to_unit, video_means
from ltx_jax.data.raw.toy.world import WorldConfig
from ltx_jax.errors import require
from ltx_jax.evaluation import scores
from ltx_jax.evaluation.fidelity import fidelity
from ltx_jax.evaluation.frechet import features, frechet, spread
from ltx_jax.evaluation.prompts import Wanted, draw_prompts, true_clips
from ltx_jax.evaluation.scores import Observed, observe
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.sampler import Sampler

Kind = Literal["model", "autoencoders", "truth"]
SCORES = ("colour", "shape", "count", "size", "background", "inside", "prompt", "prompt_unseen", "sync_60ms")
DETAILS = ("smooth", "pitch", "timbre")
AUTOENCODERS = ("video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder")
ALIKE, OF_ONE = 8, 4  # clips of one prompt, and prompts, that diversity is measured on


@dataclasses.dataclass(frozen=True)
class Film:
    """Pixels uint8 (F, h, w, 3) at fps and sound float32 (2, samples) at rate Hz."""

    video: np.ndarray
    audio: np.ndarray
    fps: float
    rate: int


@dataclasses.dataclass(frozen=True)
class Measured:
    """Prompts, the clips that were made of them, and what was seen and heard; diversity in shares of the truth's.

    kept: what the autoencoders keep of true clips (fidelity.py), where they were measured.
    """

    wanted: tuple[Wanted, ...]
    films: tuple[Film, ...]
    clips: tuple[Observed, ...]
    frechet: float
    frechet_floor: float
    diversity: float | None = None
    kept: dict[str, float] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def table(self) -> dict[str, np.ndarray]:
        """See scores.table."""
        return scores.table(self.wanted, self.clips)

    def report(self) -> dict[str, Any]:
        """The figures, JSON-able: scores from 0 to 1, None where nothing could be said."""
        found = {name: _number(value) for name, value in scores.means(self.table).items()}
        return {
            "prompts": len(self.wanted),
            "scores": {name: found[name] for name in SCORES},
            "sync_offset_ms": _number(scores.offset_ms(self.clips), 1),
            "frechet": _number(self.frechet),
            "frechet_floor": _number(self.frechet_floor),
            "reconstruction": {name: _number(value) for name, value in self.kept.items()},
            "details": {name: found[name] for name in DETAILS} | {"diversity": self.diversity},
        }


def evaluate_toy(
    sampler: Sampler,
    count: int,
    seed: int = 0,
    *,
    kind: Kind = "model",
    steps: int | None = None,
    cfg: float | None = None,
) -> Measured:
    """Measure `count` clips of held-out prompts: the model's, true ones through its autoencoders, or true ones.

    Raises UserError for a count below one, and for a request that the model cannot serve.
    """
    require(count >= 1, f"prompts is {count}, but must be at least 1.")
    size, rate = sampler.bundle.release.sampling, sampler.bundle.release.audio_vae.sampling_rate
    world = WorldConfig(size.width, size.height, size.num_frames, size.fps, rate, "any")
    wanted, diversity, kept = draw_prompts(count, seed), None, {}
    references = [[_film(clip, world) for clip in true_clips(wanted, world, draw)] for draw in (1, 2)]
    if kind == "model":
        films = sample_films(sampler, [w.prompt for w in wanted], seed, steps, cfg)
    else:
        truth = true_clips(wanted, world)
        films = [_film(clip, world) for clip in truth]
        if kind == "autoencoders":
            films = rebuild_films(sampler.bundle, films)
            kept = fidelity(sampler.bundle, truth, [film.video for film in films])
    clips = _observe(films)
    if kind == "model" and count >= ALIKE * OF_ONE:
        alike = sample_films(sampler, [w.prompt for w in wanted[:OF_ONE] for _ in range(ALIKE)], seed + 1, steps, cfg)
        seen = _observe(alike)
        groups = [seen[i : i + ALIKE] for i in range(0, len(seen), ALIKE)]
        true = _observe(references[0])
        diversity = round(spread(groups) / spread([true[i : i + ALIKE] for i in range(0, len(true), ALIKE)]), 3)
    return Measured(tuple(wanted), tuple(films), tuple(clips), *_distances(films, clips, references), diversity, kept)


def sample_films(
    sampler: Sampler, prompts: Sequence[str], seed: int, steps: int | None = None, cfg: float | None = None
) -> list[Film]:
    """One clip of the model for every prompt."""
    clips = sampler.generate(Request(tuple(prompts), seed=seed, steps=steps, cfg=cfg), progress=True)
    return [Film(clip.video, clip.audio, clip.fps, clip.sample_rate) for clip in clips]


def rebuild_films(model: Bundle, films: Sequence[Film], batch: int = 8) -> list[Film]:
    """Clips through encoder and decoder: what the transformer could reach at best."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    networks = networks_on(mesh, model.release)
    params = {part: model.params[part] for part in AUTOENCODERS}

    @jax.jit
    def rebuild(params: Any, video: jax.Array, audio: jax.Array) -> tuple[jax.Array, jax.Array]:
        shown = decode_means(networks, params, video_means(networks, params, to_unit(video)))
        return shown, audio_waveform(networks, params, audio_means(networks, params, audio))

    made = []
    with jax.set_mesh(mesh):
        for i in range(0, len(films), batch):
            part = [films[min(k, len(films) - 1)] for k in range(i, i + batch)]
            both = rebuild(params, *(np.stack([getattr(film, name) for film in part]) for name in ("video", "audio")))
            video, audio = (np.asarray(x) for x in both)
            made += [dataclasses.replace(f, video=v, audio=a) for f, v, a in zip(part, video, audio, strict=True)]
    return made[: len(films)]


def _film(clip: Any, world: WorldConfig) -> Film:
    return Film(clip.video, clip.audio, world.fps, world.sample_rate)


def _observe(films: Sequence[Film]) -> list[Observed]:
    return [observe(film.video, film.audio, film.fps, film.rate) for film in films]


def _distances(films: Sequence[Film], clips: Sequence[Observed], references: list[list[Film]]) -> tuple[float, float]:
    """Fréchet distance from the truth of the same prompts, and that of the truth from itself."""
    if len(films) < 2:
        return float("nan"), float("nan")
    of = lambda films, clips: np.array(
        [features(f.video, f.audio, c, f.rate) for f, c in zip(films, clips, strict=True)]
    )
    truth, again = (of(films, _observe(films)) for films in references)
    scale = truth.std(0) + 1e-3
    return frechet(of(films, clips), truth, scale), frechet(again, truth, scale)


def _number(value: float, digits: int = 3) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
