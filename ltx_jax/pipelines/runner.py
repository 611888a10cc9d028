"""From a request to clips: builds streams and a plan on the host, then runs the compiled stages.

Noise belongs to a clip's number alone: batch size, mesh and the other clips of a request do not change a clip.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from ltx_jax.bundle import Bundle, Networks, networks_on
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.codec import TEXT_ENCODER, VIDEO_ENCODER, text_contexts, to_unit, video_tokens
from ltx_jax.diffusion import geometry, schedules
from ltx_jax.diffusion.conditioning import LatentAtIndex, LatentState, add_state_noise, draw_noise
from ltx_jax.diffusion.guidance import Guidance
from ltx_jax.diffusion.sample import SamplerState, SamplingPlan, make_plan
from ltx_jax.errors import UserError
from ltx_jax.files import read_text
from ltx_jax.media.images import read_image
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import Program
from ltx_jax.pipelines import programs
from ltx_jax.pipelines.clip import Clip
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.states import empty_audio, empty_video, make_state
from ltx_jax.rng import named_key

TOY = Path(__file__).parents[1] / "assets" / "toy"
BATCH = 16  # clips that go through the network together


def open_model(checkpoint: str | Path | None = None, text_encoder: str | Path | None = None) -> Bundle:
    """The model at `checkpoint` (a folder or file), or the toy that ships with the package for None or "toy"."""
    if checkpoint is None or str(checkpoint) == "toy":
        checkpoint = TOY
    return load_bundle(checkpoint, text_encoder)


def read_prompts(path: str | None) -> tuple[str, ...]:
    """Prompts of a text file, one a line, empty lines skipped; () for no file. Raises UserError when there is none."""
    if path is None:
        return ()
    if not Path(path).is_file():
        raise UserError(f"There is no prompts file '{path}'.")
    prompts = tuple(line.strip() for line in read_text(path).split("\n") if line.strip())
    if not prompts:
        raise UserError(f"The prompts file '{path}' is empty; write one prompt a line.")
    return prompts


def generate(
    bundle: Bundle, request: Request, *, mesh: Mesh | None = None, progress: bool = False, dtype: Any = jnp.float32
) -> list[Clip]:
    """All clips of `request`, in its order (every prompt, each num_samples times).

    mesh: devices to use, default all. dtype: compute type of the networks. Raises UserError for a request that the
    model cannot serve.
    """
    request = request.resolve(bundle.release)
    if bundle.release.text is None or bundle.tokenizer is None:
        raise UserError(f"The text encoder of {bundle.release.name} is not supported yet.")
    clips = request.clips
    size = min(BATCH, len(clips))
    plan = _plan(request, bundle.release.transformer.num_layers)
    total = -(-len(clips) // size) * plan.sigmas.shape[0]
    bar = tqdm(total=total, desc="sampling", unit="step", disable=not progress)
    mesh = mesh or make_mesh(MeshConfig())
    with jax.set_mesh(mesh), bar:
        networks = networks_on(mesh, bundle.release, dtype)
        run = _Run(bundle, request, plan, networks, mesh)
        finished = [clip for i in range(0, len(clips), size) for clip in run.batch(clips[i : i + size], size, bar)]
    return finished


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A compiled program, the shapes and shardings of its arguments, and its weights on the devices."""

    run: jax.stages.Compiled
    abstract_args: tuple[Any, ...]
    weights: Any


class _Run:
    """One request on its way: compiled programs and what the batches share."""

    def __init__(self, bundle: Bundle, request: Request, plan: SamplingPlan, networks: Networks, mesh: Mesh):
        self.bundle, self.request, self.networks, self.mesh = bundle, request, networks, mesh
        self.shape = geometry.VideoShape(request.num_frames, request.height, request.width, request.fps)  # type: ignore[arg-type]
        self.grid = geometry.latent_shape(self.shape, bundle.release.video_vae.scale_factors)
        self.plan = plan
        jit = lambda f, **kw: jax.jit(functools.partial(f, networks), **kw)
        self.encode_text, self.encode_video = jit(text_contexts), jit(video_tokens)
        self._programs: dict[str, _Loaded] = {}

    def params(self, *parts: str) -> dict[str, Any]:
        return {part: self.bundle.params[part] for part in parts}

    def load(self, name: str, make: Callable[..., Program], *arguments: Any, weights: int = 0) -> "_Loaded":
        """The program `name`, compiled at its first use; its weights are argument number `weights`."""
        if name not in self._programs:
            program = make(self.networks, *arguments, self.mesh, self.bundle.params)
            abstract = program.abstract_args[weights]
            placed = programs.put(self.params(*abstract), abstract)
            self._programs[name] = _Loaded(program.compile(), program.abstract_args, placed)
        return self._programs[name]

    def batch(self, clips: Sequence[tuple[str, int]], size: int, bar: tqdm) -> Iterator[Clip]:
        """Clips of (prompt, number) pairs; the batch is filled to `size` so that one program serves all batches."""
        filled = [*clips, *[clips[-1]] * (size - len(clips))]
        contexts = {
            "positive": self._contexts([prompt for prompt, _ in filled]),
            "negative": self._contexts([self.request.negative_prompt or ""] * size),
        }
        state = self._state([number for _, number in filled])
        abstract = programs.abstract_state(state, self.mesh)
        sample = self.load("sample", programs.make_sample_program, abstract, self.plan, weights=1)
        state, _, contexts, plan, *_ = programs.put(
            (state, sample.weights, contexts, self.plan, 0, 0), sample.abstract_args
        )
        for step in range(self.plan.sigmas.shape[0] - 1):
            state = sample.run(state, sample.weights, contexts, plan, np.int32(step), np.int32(step + 1))
            jax.block_until_ready(state)
            bar.update()
        video, audio = self._decode(state)
        bar.update()
        for i, (prompt, number) in enumerate(clips):
            yield self._clip(video[i], audio[i], prompt, number)

    def _contexts(self, prompts: list[str]) -> tuple[jax.Array, jax.Array]:
        assert self.bundle.tokenizer is not None
        ids, mask = self.bundle.tokenizer(prompts)
        return self.encode_text(self.params(*TEXT_ENCODER), jnp.asarray(ids), jnp.asarray(mask))

    def _state(self, numbers: list[int]) -> SamplerState:
        release, size = self.bundle.release, len(numbers)
        video = self._noised("video", numbers, self._hold_picture(empty_video(release, self.shape, size)))
        audio = self._noised("audio", numbers, empty_audio(release, self.shape, size))
        return make_state(release, video, audio, self.mesh.shape["context"])

    def _hold_picture(self, state: LatentState) -> LatentState:
        if self.request.image is None:
            return state
        pixels = read_image(self.request.image, self.shape.height, self.shape.width)  # uint8 (h, w, 3)
        pixels = to_unit(pixels)[None, None]
        first = self.encode_video(self.params(*VIDEO_ENCODER), pixels)  # (1, H*W, C)
        held = jnp.repeat(first, state.latent.shape[0], axis=0)
        return LatentAtIndex(held, strength=self.request.image_strength).apply(state)

    def _noised(self, name: str, numbers: list[int], state: LatentState) -> LatentState:
        keys = jnp.stack([named_key(self.request.seed, f"sampling.{name}", n) for n in numbers])  # type: ignore[arg-type]
        return add_state_noise(state, draw_noise(keys, *state.latent.shape[1:]))

    def _decode(self, state: SamplerState) -> tuple[np.ndarray, np.ndarray]:
        assert state.video is not None and state.audio is not None
        decoded = []
        for name, make, latent, sizes in (
            ("decode_video", programs.make_decode_video_program, state.video.stream.latent, (self.grid,)),
            ("decode_audio", programs.make_decode_audio_program, state.audio.stream.latent, ()),
        ):
            tokens = jax.ShapeDtypeStruct(latent.shape, latent.dtype, sharding=latent.sharding)
            decode = self.load(name, make, *sizes, tokens)
            decoded.append(np.asarray(decode.run(decode.weights, latent)))
        return decoded[0], decoded[1]

    def _clip(self, video: np.ndarray, audio: np.ndarray, prompt: str, number: int) -> Clip:
        request, release = self.request, self.bundle.release
        fields = (
            "negative_prompt",
            "steps",
            "cfg",
            "audio_cfg",
            "rescale",
            "width",
            "height",
            "num_frames",
            "fps",
            "image",
        )
        config = {"model": release.name, "sample": number, **{k: getattr(request, k) for k in fields}}
        metadata = {"prompt": prompt, "seed": str(request.seed), "config": json.dumps(config), "software": "ltx-jax"}
        return Clip(video, self.shape.fps, audio, release.vocoder.sampling_rate, metadata)


def _plan(request: Request, blocks: int) -> SamplingPlan:
    assert request.steps is not None and request.cfg is not None and request.audio_cfg is not None
    sigmas = schedules.ltx2(request.steps, tokens=request.schedule_tokens)
    rescale = request.rescale or 0.0
    return make_plan(
        sigmas,
        Guidance(cfg_scale=request.cfg, rescale_scale=rescale),
        Guidance(cfg_scale=request.audio_cfg, rescale_scale=rescale),
        blocks=blocks,
    )
