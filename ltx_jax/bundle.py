"""One loaded model: its parts, each a module with parameters that are read when first used."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ltx_jax.diffusion.geometry import patchify_audio, patchify_video
from ltx_jax.errors import UserError
from ltx_jax.models import latents as video_statistics
from ltx_jax.models.audio_vae import statistics as audio_statistics
from ltx_jax.models.audio_vae.decoder import AudioDecoder
from ltx_jax.models.audio_vae.encoder import AudioEncoder
from ltx_jax.models.audio_vae.mel import log_mel
from ltx_jax.models.audio_vae.vocoder import Vocoder
from ltx_jax.models.dit.transformer import DiT, example_inputs
from ltx_jax.models.layers import abstract_params
from ltx_jax.models.text.connectors import TextConnectors
from ltx_jax.models.text.features import stack_states
from ltx_jax.models.text.gemma3 import Gemma3
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.models.video_vae.decoder import VideoDecoder
from ltx_jax.models.video_vae.encoder import VideoEncoder
from ltx_jax.parallel.program import with_shardings
from ltx_jax.parallel.rules import param_shardings
from ltx_jax.releases import Release

# Parts with a network; the two statistics are parts of plain arrays ({"mean", "std"}).
NETWORKS = (
    "text", "connectors", "transformer", "video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder",
)  # fmt: skip
PARTS = (*NETWORKS, "video_statistics", "audio_statistics")

Modules = dict[str, nn.Module]
Array = jax.Array


def modules(
    release: Release, dtype: Any = jnp.float32, param_dtype: Any = jnp.float32, *, platform: str = ""
) -> Modules:
    """The network of every part of `release`, computing in `dtype` on parameters of `param_dtype`.

    platform: of the mesh's devices; on "cpu" video convolutions take the form that is fastest there.
    "text" is absent where the release's text encoder is not supported yet.
    """
    video = {"dtype": dtype, "param_dtype": param_dtype, "conv_impl": "taps" if platform == "cpu" else "native"}
    kinds: Modules = {
        "connectors": TextConnectors(release.connectors, dtype=dtype, param_dtype=param_dtype),
        "transformer": DiT(release.transformer, dtype=dtype, param_dtype=param_dtype),
        "video_encoder": VideoEncoder(release.video_vae, **video),
        "video_decoder": VideoDecoder(release.video_vae, **video),
        "audio_encoder": AudioEncoder(release.audio_vae, dtype=dtype, param_dtype=param_dtype),
        "audio_decoder": AudioDecoder(release.audio_vae, dtype=dtype, param_dtype=param_dtype),
        "vocoder": Vocoder(release.vocoder, dtype=dtype, param_dtype=param_dtype),
    }
    if release.text is not None:
        kinds["text"] = Gemma3(release.text, dtype=dtype, param_dtype=param_dtype)
    return kinds


def abstract_parts(release: Release, modules: Modules, parts: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes (ShapeDtypeStructs) and logical axes of the parameters of `parts`, by part. A mesh must be set."""
    pairs = {p: abstract_params(modules[p], *example_inputs_of(release, p)) for p in parts}
    return {p: shapes for p, (shapes, _) in pairs.items()}, {p: axes for p, (_, axes) in pairs.items()}


def abstract_weights(
    release: Release, modules: Modules, parts: Sequence[str], mesh: Mesh, weights: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Shapes and shardings of `parts`, statistics among them, by the rules table.

    Of the dtypes that `weights` (arrays by part) have, else of the networks' own; statistics are float32.
    """
    with jax.set_mesh(mesh):
        shapes, axes = abstract_parts(release, modules, [part for part in parts if part in modules])
    channels = {
        "video_statistics": release.video_vae.latent_channels,
        "audio_statistics": release.audio_vae.token_width,
    }
    for part in set(parts) & set(channels):
        shapes[part] = {name: jax.ShapeDtypeStruct((channels[part],), jnp.float32) for name in ("mean", "std")}
        axes[part] = {name: (None,) for name in ("mean", "std")}
    if weights is not None:
        dtypes = {part: weights[part] for part in shapes}
        shapes = jax.tree.map(lambda x, w: jax.ShapeDtypeStruct(x.shape, w.dtype), shapes, dtypes)
    return with_shardings(shapes, param_shardings(axes, shapes, mesh))


def example_inputs_of(release: Release, part: str) -> tuple[Any, ...]:
    """The smallest inputs that the network `part` of `release` takes."""
    zeros = lambda *shape: np.zeros(shape, np.float32)
    audio, text = release.audio_vae, release.text
    frequencies = audio.token_width // audio.z_channels
    if part == "transformer":
        return example_inputs(release.transformer)
    if part == "connectors":
        connectors = release.connectors
        mask = np.ones((1, release.text_length), np.int32)
        return (zeros(1, release.text_length, connectors.hidden_size, connectors.num_hidden_states), mask)
    if part == "text":
        assert text is not None
        return (np.zeros((1, 8), np.int32), np.ones((1, 8), np.int32))
    time, height, width = release.video_vae.scale_factors
    examples = {
        "video_encoder": zeros(1, 1 + time, 2 * height, 2 * width, 3),  # reflecting padding needs two
        "video_decoder": zeros(1, 2, 2, 2, release.video_vae.latent_channels),
        "audio_encoder": zeros(1, 16, audio.mel_bins, audio.in_channels),
        "audio_decoder": zeros(1, 4, frequencies, audio.z_channels),
        "vocoder": zeros(1, 16, audio.mel_bins, 2),
    }
    return (examples[part],)


class LazyParts(Mapping[str, Any]):
    """Parameters by part, each read by its loader at first use and kept until dropped."""

    def __init__(self, loaders: Mapping[str, Callable[[], Any]]):
        self._loaders = dict(loaders)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, part: str) -> Any:
        if part not in self._loaded:
            if part not in self._loaders:
                raise UserError(f"The checkpoint has no part '{part}'.")
            self._loaded[part] = self._loaders[part]()
        return self._loaded[part]

    def __contains__(self, part: object) -> bool:
        return part in self._loaders  # Mapping's own would read it

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def drop(self, part: str) -> None:
        """Forget the loaded parameters of `part`; they are read again if needed."""
        self._loaded.pop(part, None)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model: its declaration, its parameters by part (see PARTS), and the tokenizer of its text encoder."""

    release: Release
    params: Mapping[str, Any]
    tokenizer: Tokenizer | None = None


def text_contexts(modules: Modules, params: Mapping[str, Any], ids: Array, mask: Array) -> tuple[Array, Array]:
    """Video and audio contexts (B, S, E) of token ids and mask (B, S) int32 (spec gemma.md 1, transformer.md 12)."""
    hidden = modules["text"].apply({"params": params["text"]}, ids, mask)  # (L+1, B, S, D)
    return modules["connectors"].apply({"params": params["connectors"]}, stack_states(hidden), mask)  # type: ignore[return-value]


def video_tokens(modules: Modules, params: Mapping[str, Any], video: Array) -> Array:
    """Normalised latent tokens (B, T, C) of pixels (B, F, h, w, 3) in [-1, 1] (spec video_vae.md 2, 4)."""
    means, _ = modules["video_encoder"].apply({"params": params["video_encoder"]}, video)
    return patchify_video(video_statistics.normalize(means, params["video_statistics"]))


def audio_tokens(modules: Modules, params: Mapping[str, Any], waveform: Array, length: int) -> Array:
    """Normalised audio tokens (B, length, Z * f) of a waveform (B, 2, L) at the VAE's rate (spec audio_vae.md 2, 5).

    Too many are cut; missing ones are zeros, as the published pre-processing does.
    """
    encoder = modules["audio_encoder"]
    means, _ = encoder.apply({"params": params["audio_encoder"]}, log_mel(waveform, encoder.config))  # type: ignore
    latents = audio_statistics.normalize(means, params["audio_statistics"])  # (B, A, f, Z)
    return patchify_audio(audio_statistics.fit_length(latents, length))
