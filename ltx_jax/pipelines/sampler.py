"""From requests to clips, on one mesh: stages are begun on the host, run as compiled programs, and decoded.

A sampler lives between requests: what it compiled stays, by shape and static plan, and so do the weights that it has
placed. Noise belongs to a clip's number alone: batch size, mesh and the other clips of a request do not change a clip.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from ltx_jax import codec
from ltx_jax.bundle import Bundle, Placed, networks_on
from ltx_jax.checkpoints.load import load_bundle, load_text_model
from ltx_jax.checkpoints.lora import apply_loras, parse_lora
from ltx_jax.diffusion.conditioning import draw_noise
from ltx_jax.diffusion.geometry import VideoShape, latent_shape, unpatchify_video
from ltx_jax.diffusion.sample import SamplerState, make_plan, prepare
from ltx_jax.diffusion.tiled import Tiles
from ltx_jax.errors import require
from ltx_jax.models.storage import Storage
from ltx_jax.models.text.config import Gemma3Config
from ltx_jax.models.text.duration import duration_frames
from ltx_jax.parallel.mesh import compute_dtype, make_mesh
from ltx_jax.parallel.multihost import say
from ltx_jax.pipelines import memory, programs
from ltx_jax.pipelines.clip import Clip
from ltx_jax.pipelines.decoding import check_finite, decode_pieces, tiling_of
from ltx_jax.pipelines.enhance import Enhancer
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.states import begin, empty_audio, empty_video, make_state, tiles_of
from ltx_jax.pipelines.tasks import Part, Stage, shape_of, stages_of
from ltx_jax.rng import named_key
from ltx_jax.streams import MODALITIES

BATCH = 16  # clips that go through the network together, at most
TOKENS = 16384  # video tokens that do, on every batch shard; one clip may have more

# What one batch is made of: its request, the stages of that, its clips (prompt, number), and the size it is filled to.
Batch = tuple[Request, tuple[Stage, ...], list[tuple[str, int]], int]


@dataclasses.dataclass(frozen=True)
class Model:
    """What `ltx_jax.load` gives: a sampler, and with it its bundle of parts."""

    sampler: "Sampler"

    @property
    def bundle(self) -> Bundle:
        """The parts that the sampler samples with."""
        return self.sampler.bundle


def open_model(
    checkpoint: str | Path | None = None,
    text_encoder: str | Path | None = None,
    *,
    files: Mapping[str, Any] | None = None,
    loras: Sequence[str] = (),
    prompt_enhancer: str | Path | None = None,
    mesh: Mesh | None = None,
    dtype: Any = None,
    quantization: str | None = None,
    offload: str | None = None,
) -> Model:
    """The model at `checkpoint` with LoRAs (PATH[:STRENGTH]) merged; see `load_bundle` and `Sampler`.

    Without a checkpoint, and without a transformer among `files`, it is the toy. prompt_enhancer: the folder of a chat
    model, where it is not the text encoder that enhances. Weights stay in the type of the file. On a CPU, which would
    convert them in every step, they take that of the computation. quantization, offload: see `Storage`.
    """
    storage = Storage(quantization, offload)
    mesh, files = make_mesh() if mesh is None else mesh, {k: v for k, v in (files or {}).items() if v is not None}
    checkpoint = checkpoint or (None if "transformer" in files else "toy")
    adapters = [parse_lora(text) for text in loras]  # before weights are read, which takes minutes for a large model
    for path, _ in adapters:
        require(not os.path.isdir(path), f"'{path}' is a folder; --lora takes a .safetensors file in it.")
        require(os.path.isfile(path), f"There is no LoRA file '{path}'.")
    dtype = compute_dtype(mesh, dtype)
    stored = dtype if mesh.devices.flat[0].platform == "cpu" else None
    bundle = load_bundle(checkpoint, text_encoder, stored, files=files)
    chat = None if prompt_enhancer is None else load_text_model(prompt_enhancer, bundle.release, stored)
    bundle = apply_loras(bundle, adapters)
    origin = {"checkpoint": str(checkpoint or files["transformer"]), "lora": list(loras)}
    return Model(Sampler(bundle, mesh, dtype, origin, chat, storage))


class Sampler:
    """Makes clips of one model. Calls may come from several threads; batches run one after the other."""

    def __init__(
        self, bundle: Bundle, mesh: Mesh | None = None, dtype: Any = None, origin: Mapping[str, Any] | None = None,
        chat: Bundle | None = None, storage: Storage = Storage(),
    ):  # fmt: skip
        """mesh: devices to use, all by default. dtype: of the computation, see `compute_dtype`; origin: where the
        weights come from, for the metadata of clips; chat: the text model that enhances prompts, if not the encoder;
        storage: how the weights lie on the devices. Another mesh or type is another sampler."""
        self.bundle, self.mesh = bundle, make_mesh() if mesh is None else mesh
        self.networks = networks_on(self.mesh, bundle.release, compute_dtype(self.mesh, dtype), storage=storage)
        rounded = {} if storage.quantization is None else {"quantization": storage.quantization}
        self.origin = {"model": bundle.release.name, **(origin or {}), "dtype": str(self.networks.dtype), **rounded}
        self._placed, self._chat = Placed(self.networks, bundle.params, self.mesh), chat
        self._lock = threading.RLock()

    def use(self, bundle: Bundle) -> None:
        """Sample with other weights of the same release from now on; nothing is compiled again.

        Raises UserError for another release.
        """
        with self._lock:
            require(bundle.release == self.bundle.release, "A sampler can only take weights of its own release.")
            self.bundle = bundle
            self._placed.use(bundle.params)

    def forget(self) -> None:
        """Let go of the weights on the devices; they are placed again when next needed."""
        with self._lock:
            self._placed.forget()

    def generate(self, request: Request, *, progress: bool = False) -> list[Clip]:
        """All clips of `request`, in its order (every prompt, each num_samples times); see `clips`."""
        return list(self.clips(request, progress=progress))

    def clips(self, request: Request, *, progress: bool = False) -> Iterator[Clip]:
        """The clips of `request`, each batch made when its first clip is asked for.

        Raises UserError at once for a request that the model cannot serve.
        """
        request = request.resolve(self.bundle.release)
        if self.bundle.distilled and max(request.cfg or 1, request.audio_cfg or 1) > 1:
            say("warning: these weights are distilled to sample without guidance; ask for --cfg=1 and few --steps")
        if request.enhance_prompt:
            request = self._enhanced(request)
        batches = []
        for timed, clips in self._timed(request):
            size = self._batch_size(shape_of(timed), len(clips))
            cut = [clips[i : i + size] for i in range(0, len(clips), size)]
            batches += [(timed, stages_of(timed), some, size) for some in cut]
        return self._batches(batches, progress)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """One caller at a time on the mesh; a device that is full is one sentence."""
        with self._lock, jax.set_mesh(self.mesh), memory.one_sentence(self._placed):
            yield

    def _batches(self, batches: Sequence[Batch], progress: bool) -> Iterator[Clip]:
        total = sum(sum(stage.steps for stage in stages) + 1 for _, stages, _, _ in batches)
        with tqdm(total=total, desc="sampling", unit="step", disable=not progress) as bar:
            for batch in batches:
                with self._running():
                    made = self._batch(*batch, bar)
                if batch is batches[-1]:
                    bar.close()  # what the caller prints comes after it
                yield from made

    def _enhanced(self, request: Request) -> Request:
        """The request with its prompts written out, each once."""
        release, placed = self.bundle.release, self._placed
        require(
            self._chat is not None or isinstance(release.text, Gemma3Config),
            f"The text encoder of {release.name} only encodes: give the folder of a chat model with --prompt_enhancer.",
        )
        if self._chat is not None:
            networks = networks_on(self.mesh, self._chat.release, self.networks.dtype, storage=self.networks.storage)
            placed = Placed(networks, self._chat.params, self.mesh)
        enhance = Enhancer(self._chat or self.bundle, placed)
        given = dict.fromkeys(request.prompts)
        with self._running():
            written = {p: enhance(p, request.seed or 0, request.enhance_instructions) for p in given}
        for prompt, text in written.items():
            say(f"'{prompt}' became '{text}'")
        done = {"enhance_prompt": False, "enhance_instructions": None}
        return dataclasses.replace(request, prompts=tuple(written[p] for p in request.prompts), **done)

    def _timed(self, request: Request) -> list[tuple[Request, list[tuple[str, int]]]]:
        """Requests of one length each, and their clips, in the order of the request."""
        if request.auto_duration is None:
            return [(request, request.clips)]
        release, frames = self.bundle.release, {}
        with self._running():
            head = self._placed.load(codec.make_duration_program, codec.DURATION, 1)
            for prompt in dict.fromkeys(request.prompts):
                seconds = float(np.asarray(head(*self._tokens([prompt])))[0])
                bounds = (request.fps or 0.0, *request.auto_duration, release.video_vae.scale_factors[0])
                frames[prompt] = duration_frames(seconds, *bounds)
        fixed = lambda n: dataclasses.replace(request, num_frames=n, auto_duration=None).resolve(release)
        return [(fixed(n), list(clips)) for n, clips in itertools.groupby(request.clips, lambda clip: frames[clip[0]])]

    def _batch_size(self, shape: VideoShape, clips: int) -> int:
        frames, rows, columns = latent_shape(shape, self.bundle.release.video_vae.scale_factors)
        fitting = TOKENS * self._shards // (frames * rows * columns)
        return min(clips, max(self._shards, min(BATCH, fitting)))

    @property
    def _shards(self) -> int:
        """Devices that hold clips of their own."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def _batch(
        self, request: Request, stages: tuple[Stage, ...], clips: Sequence[tuple[str, int]], size: int, bar: tqdm
    ) -> list[Clip]:
        """Clips of (prompt, number) pairs; the batch is filled to `size` so that one program serves all batches."""
        filled = [*clips, *[clips[-1]] * (size - len(clips))]
        positive = self._texts([prompt for prompt, _ in filled])
        negative = self._texts([request.negative_prompt or ""] * size)
        assert request.seed is not None
        state = None
        for place, stage in enumerate(stages):
            keys = lambda name, place=place: _keys(request.seed or 0, name, place, [n for _, n in filled])
            state = self._denoise(self._begin(stage, size, keys, state), stage, keys, positive, negative, bar)
        assert state is not None
        drawn = _keys(request.seed, "decode", 0, [n for _, n in filled])
        films, sounds = self._decode(state, stages[-1].shape, len(clips), np.asarray(jax.random.key_data(drawn)))
        bar.update()
        frames, rate = stages[-1].shape.frames, self.bundle.release.vocoder.sampling_rate
        return [
            Clip(film, stages[-1].shape.fps, sound, rate, request.metadata(*clip, self.origin), num_frames=frames)
            for film, sound, clip in zip(films, sounds, clips, strict=False)
        ]

    # --- stages -----------------------------------------------------------------------------------------------------

    def _texts(self, prompts: list[str]) -> tuple[Any, Any]:
        """What the sampling loop reads of prompts, see `stages.Contexts`."""
        contexts = self._contexts(prompts)
        if self.bundle.release.transformer.prompt_modulation:
            return contexts
        return self._placed.load(programs.make_text_memory_program, ("transformer",), len(prompts))(*contexts)

    def _contexts(self, prompts: list[str]) -> tuple[jax.Array, jax.Array]:
        encode = self._placed.load(codec.make_encode_text_program, codec.TEXT_ENCODER, len(prompts))
        return encode(*self._tokens(prompts))

    def _tokens(self, prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        assert self.bundle.tokenizer is not None
        return self.bundle.tokenizer(prompts)

    def _encode_video(self, pixels: np.ndarray, batch: int) -> jax.Array:
        """Tokens (batch, T, C) of frames uint8 (F, h, w, 3), equal for all."""
        video = codec.to_unit(pixels)[None]
        encode = self._placed.load(codec.make_encode_video_program, codec.VIDEO_ENCODER, like(video))
        return jnp.repeat(encode(video), batch, axis=0)

    def _begin(
        self, stage: Stage, batch: int, keys: Callable[[str], jax.Array], previous: SamplerState | None
    ) -> tuple[SamplerState, Tiles | None]:
        release, shape = self.bundle.release, stage.shape

        def begun(name: str, part: Part, state: Any) -> Any:
            before = getattr(previous, name, None) if part.start == "previous" else None
            start = None if before is None else before.latent
            draw = functools.partial(draw_noise, keys(name))
            items = [given.item(shape, lambda pixels: self._encode_video(pixels, batch)) for given in part.given]
            return begin(state, start, items, draw, stage.sigmas[0], frozen=part.frozen)

        video = begun("video", stage.video, empty_video(release, shape, batch))
        audio = begun("audio", stage.audio, empty_audio(release, shape, batch))
        tiles = None if stage.tiles is None else tiles_of(release, video, audio, stage.tiles)
        return make_state(release, video, audio, self.mesh.shape["context"]), tiles

    def _denoise(
        self, begun: tuple[SamplerState, Tiles | None], stage: Stage, keys: Callable[[str], jax.Array], positive: Any,
        negative: Any, bar: tqdm,
    ) -> SamplerState:  # fmt: skip
        state, tiles = begun
        dit = self.bundle.release.transformer
        plan = make_plan(
            np.asarray(stage.sigmas, np.float32), stage.video.guidance, stage.audio.guidance, blocks=dit.num_layers,
            stepper=stage.stepper, options=dict(stage.options), tiles=tiles, reuse=stage.reuse,
        )  # fmt: skip
        widths = {name: dit.stream(name).width for name in MODALITIES}
        state = prepare(state, plan, lambda name: keys(f"{name}.steps"), widths, self.networks.dtype)
        abstract = programs.abstract_state(state, self.mesh)
        sample = self._placed.load(programs.make_sample_program, ("transformer",), abstract, plan)
        given = {"state": state, "contexts": {"positive": positive, "negative": negative}, "plan": plan}
        placed = programs.put(given, {name: sample.program.arguments[name] for name in given})
        state, contexts, plan = (placed[name] for name in given)
        for step in range(stage.steps):
            state = sample.run(state, sample.weights, contexts, plan, np.int32(step), np.int32(step + 1))
            jax.block_until_ready(state)
            bar.update()
        return state

    def _decode(
        self, state: SamplerState, shape: VideoShape, clips: int, keys: np.ndarray
    ) -> tuple[list[Any], np.ndarray]:
        """Frames of the first `clips` clips, or functions that decode them in pieces, and sounds (B, 2, samples).

        keys: a clip's, see `codec.decode_means`.
        """
        assert state.video is not None and state.audio is not None
        video, audio = state.video.stream.latent, state.audio.stream.latent
        decode = self._placed.load(codec.make_decode_audio_program, codec.AUDIO_DECODER, like(audio))
        sounds = np.asarray(decode(audio))
        vae = self.bundle.release.video_vae
        grid, tiling = latent_shape(shape, vae.scale_factors), tiling_of(shape, vae)
        check_finite(video[:, : grid[0] * grid[1] * grid[2]], sounds)
        if tiling is None:
            # A diffusion decoder takes much memory for a clip, so each device decodes one at a time.
            size = len(video) if vae.diffusion is None else min(len(video), self._shards)
            films: list[np.ndarray] = []
            for i in range(0, len(video), size):
                part = video[i : i + size]
                decode = self._placed.load(codec.make_decode_video_program, codec.VIDEO_DECODER, grid, like(part))
                films += list(np.asarray(decode(part, keys[i : i + size])))
            return films, sounds
        count = grid[0] * grid[1] * grid[2]
        latents = [np.asarray(unpatchify_video(video[i : i + 1, :count], *grid)) for i in range(clips)]
        placed = self._placed.weights(codec.VIDEO_DECODER)  # those of now, whatever is in use when the clip is decoded
        run = functools.partial(self._run_decoder, placed)
        pieces = functools.partial(decode_pieces, self.networks, run, tiling_=tiling)
        return [functools.partial(pieces, z, keys[i : i + 1]) for i, z in enumerate(latents)], sounds

    def _run_decoder(self, weights: Any, make: Callable[..., Any], *arguments: Any, inputs: tuple[Any, ...]) -> Any:
        with self._running():
            return self._placed.load(make, codec.VIDEO_DECODER, *arguments).run(weights, *inputs)


def like(x: jax.Array) -> jax.ShapeDtypeStruct:
    """An array's shape, type and sharding."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _keys(seed: int, stream: str, stage: int, numbers: Sequence[int]) -> jax.Array:
    """A key for the noise of each clip's stream in a stage of its task."""
    name = f"sampling.{stream}" + (f".stage{stage}" if stage else "")
    return jnp.stack([named_key(seed, name, number) for number in numbers])
