"""The parts of a model, declared once: a row each. Loading, saving, training, encoding, sampling and planning read it.

A new part is a row in PARTS with its network, its configuration and its names in files of their own, and a field of
`Configs`; nothing else has to know it.
"""

import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import numpy as np

from ltx_jax.models import latents
from ltx_jax.models.audio_vae import generator
from ltx_jax.models.audio_vae.config import AudioVAEConfig, VocoderConfig
from ltx_jax.models.audio_vae.decoder import AudioDecoder
from ltx_jax.models.audio_vae.encoder import AudioEncoder
from ltx_jax.models.audio_vae.vocoder import Vocoder
from ltx_jax.models.dit.config import DiTConfig
from ltx_jax.models.dit.transformer import DiT, example_inputs
from ltx_jax.models.text.config import Gemma3Config, Gemma4Config, TextConfig
from ltx_jax.models.text.connectors import TextConnectors
from ltx_jax.models.text.connectors_config import TextConnectorsConfig
from ltx_jax.models.text.duration import DurationConfig, DurationHead
from ltx_jax.models.text.gemma3 import Gemma3
from ltx_jax.models.text.gemma4 import Gemma4
from ltx_jax.models.upsampler import LatentUpsampler, UpsamplerConfig
from ltx_jax.models.video_vae.config import VideoVAEConfig
from ltx_jax.models.video_vae.decoder import VideoDecoder
from ltx_jax.models.video_vae.diffusion_decoder import DiffusionVideoDecoder
from ltx_jax.models.video_vae.encoder import VideoEncoder
from ltx_jax.names import Name
from ltx_jax.names.audio_vae import audio_decoder_names, audio_encoder_names
from ltx_jax.names.connectors import text_connectors_names
from ltx_jax.names.dit import TRANSFORMER_PREFIX, dit_names
from ltx_jax.names.duration import duration_names
from ltx_jax.names.gemma3 import gemma3_names
from ltx_jax.names.gemma4 import gemma4_names
from ltx_jax.names.upsampler import upsampler_names
from ltx_jax.names.video_vae import video_decoder_names, video_encoder_names
from ltx_jax.names.vocoder import vocoder_names

# What a part's tensors lie in: the file of all parts, the folder beside it, or a file of the part's own.
File = Literal["model", "text_encoder", "spatial_upsampler", "temporal_upsampler", "duration_head"]

UPSAMPLERS: tuple[Literal["spatial_upsampler", "temporal_upsampler"], ...] = ("spatial_upsampler", "temporal_upsampler")
OPTIONAL: tuple[File, ...] = (*UPSAMPLERS, "duration_head")  # parts that a model may lack, each in a file of its own
DURATION_PREFIX = "duration_head."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configs:
    """The configuration of every part of a model.

    text_length: tokens that a prompt is padded to. None: a part that the model lacks (see OPTIONAL).
    """

    text: TextConfig
    connectors: TextConnectorsConfig
    transformer: DiTConfig
    video_vae: VideoVAEConfig
    audio_vae: AudioVAEConfig
    vocoder: VocoderConfig
    spatial_upsampler: UpsamplerConfig | None = None
    temporal_upsampler: UpsamplerConfig | None = None
    duration_head: DurationConfig | None = None
    text_length: int = 1024


# Which block of an official file's metadata `config` describes a configuration, and its class. Two may share a block.
OFFICIAL: dict[str, tuple[str, Any]] = {
    "transformer": ("transformer", DiTConfig),
    "connectors": ("transformer", TextConnectorsConfig),
    "video_vae": ("vae", VideoVAEConfig),
    "audio_vae": ("audio_vae", AudioVAEConfig),
    "vocoder": ("vocoder", VocoderConfig),
}


def configs_from_official(blocks: Mapping[str, Any], text: TextConfig) -> dict[str, Any]:
    """The fields of `Configs` that official metadata declares, beside the text encoder. Raises UserError for a bad one.

    blocks: `config` of a file's metadata; see OFFICIAL.
    """
    found: dict[str, Any] = {"text": text}
    for field, (block, kind) in OFFICIAL.items():
        more = {"num_hidden_states": text.num_hidden_layers + 1} if kind is TextConnectorsConfig else {}
        found[field] = kind.from_official(blocks[block], **more)
    return found


def configs_to_official(configs: Configs) -> dict[str, dict[str, Any]]:
    """The inverse of `configs_from_official`: metadata blocks, JSON-able."""
    blocks: dict[str, dict[str, Any]] = {}
    for field, (block, _) in OFFICIAL.items():
        blocks[block] = blocks.get(block, {}) | getattr(configs, field).to_official()
    return blocks


@dataclasses.dataclass(frozen=True)
class Part:
    """One part. config: the field of `Configs` that describes it; a model has the part if that field is a `kind`.

    names: its tensors' official names, of its configuration. prefixes: what stands before them in a file, tried in
    order (split files drop the first component); the first one is written. split: the file, and the prefix there, of a
    release that is published as a file per component; None is the same as `file`. network: made from the configuration,
    with `dtype`, `param_dtype` and the platform of the devices. inputs: the smallest that the network takes, of all
    configurations. begin: changes random parameters before training. width: of statistics, a part without a network
    whose parameters are {"mean", "std"}, float32 (width,).
    """

    name: str
    config: str
    kind: type
    names: Callable[[Any], list[Name]]
    prefixes: tuple[str, ...]
    file: File = "model"
    split: tuple[str, str] | None = None
    network: Callable[[Any, Any, Any, str], nn.Module] | None = None
    inputs: Callable[[Any], tuple[Any, ...]] = lambda configs: ()
    begin: Callable[[Any, Any], Any] = lambda config, params: params
    width: Callable[[Any], int] | None = None

    def config_of(self, configs: Configs) -> Any:
        """The configuration of this part."""
        return getattr(configs, self.config)

    def names_of(self, configs: Configs) -> list[Name]:
        """Official names of the part's tensors, without a prefix."""
        return self.names(self.config_of(configs))

    @property
    def component(self) -> tuple[str, str]:
        """The part's file where a release is split, and the prefix there."""
        return self.split or (self.file, self.prefixes[0])

    def prefix_in(self, configs: Configs, tensors: Container[str]) -> str:
        """The prefix under which `tensors` hold the part; the first one where they do not."""
        first = self.names_of(configs)[0].officials()[0]
        return next((p for p in self.prefixes if p + first in tensors), self.prefixes[0])


def _network(kind: Callable[..., nn.Module]) -> Callable[[Any, Any, Any, str], nn.Module]:
    return lambda config, dtype, param_dtype, platform: kind(config, dtype=dtype, param_dtype=param_dtype)


def _video_network(kind: Callable[..., nn.Module]) -> Callable[[Any, Any, Any, str], nn.Module]:
    """Convolutions of the form that is fastest on the platform."""
    form = lambda platform: "taps" if platform == "cpu" else "native"
    return lambda config, dtype, param_dtype, platform: kind(
        config, dtype=dtype, param_dtype=param_dtype, conv_impl=form(platform)
    )


def _video_decoder(config: VideoVAEConfig, dtype: Any, param_dtype: Any, platform: str) -> nn.Module:
    """The decoder that the configuration describes."""
    if config.diffusion is not None:
        return DiffusionVideoDecoder(config.diffusion, dtype, param_dtype)
    return _video_network(VideoDecoder)(config, dtype, param_dtype, platform)


def _video_latents(configs: Configs) -> tuple[np.ndarray, ...]:
    """Latents, and for a diffusion decoder noise."""
    vae, sizes = configs.video_vae, (2, 2, 2)
    latents = _zeros(1, *sizes, vae.latent_channels)
    if vae.diffusion is None:
        return (latents,)
    return latents, _zeros(1, *vae.diffusion.canvas(sizes), vae.diffusion.out_channels)


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)  # of NumPy: shapes are also inferred under meshes whose devices do not exist


def _ids(configs: Configs) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((1, 8), np.int32), np.ones((1, 8), np.int32)


def _hidden_states(configs: Configs) -> tuple[np.ndarray, np.ndarray]:
    connectors, length = configs.connectors, configs.text_length
    return _zeros(1, length, connectors.hidden_size, connectors.num_hidden_states), np.ones((1, length), np.int32)


def _contexts(configs: Configs) -> tuple[np.ndarray, np.ndarray]:
    connectors = configs.connectors
    return _zeros(1, 2, connectors.video.width), _zeros(1, 2, connectors.audio.width)


def _pixels(configs: Configs) -> tuple[np.ndarray]:
    time, height, width = configs.video_vae.scale_factors
    return (_zeros(1, 1 + time, 2 * height, 2 * width, 3),)  # reflecting padding needs two


def _statistics_names(config: Any) -> list[Name]:
    return [Name("mean-of-means", ("mean",)), Name("std-of-means", ("std",))]


PARTS: tuple[Part, ...] = (
    Part(
        "text", "text", Gemma3Config, gemma3_names, ("language_model.model.", "model.language_model.", "model."),
        file="text_encoder", network=_network(Gemma3), inputs=_ids,
    ),
    Part(
        "text", "text", Gemma4Config, gemma4_names, ("model.", "model.language_model.", "language_model.model."),
        file="text_encoder", network=_network(Gemma4), inputs=_ids,
    ),
    Part(
        "connectors", "connectors", TextConnectorsConfig, text_connectors_names, ("",),
        network=_network(TextConnectors), inputs=_hidden_states,
        split=("transformer", ""),
    ),
    Part(
        "transformer", "transformer", DiTConfig, dit_names, (TRANSFORMER_PREFIX, ""), network=_network(DiT),
        inputs=lambda c: example_inputs(c.transformer),
        split=("transformer", TRANSFORMER_PREFIX),
    ),
    Part(
        "video_encoder", "video_vae", VideoVAEConfig, video_encoder_names, ("vae.encoder.", "encoder."),
        network=_video_network(VideoEncoder), inputs=_pixels,
        begin=lambda c, params: latents.with_little_noise(params, c.latent_channels),
        split=("video_vae", "encoder."),
    ),
    Part(
        "video_decoder", "video_vae", VideoVAEConfig, video_decoder_names, ("vae.decoder.", "decoder."),
        network=_video_decoder, inputs=_video_latents, split=("video_vae", "decoder."),
    ),
    Part(
        "audio_encoder", "audio_vae", AudioVAEConfig, audio_encoder_names, ("audio_vae.encoder.",),
        network=_network(AudioEncoder),
        inputs=lambda c: (_zeros(1, 16, c.audio_vae.mel_bins, c.audio_vae.in_channels),),
        begin=lambda c, params: latents.with_little_noise(params, c.z_channels),
        split=("audio_vae", "audio_vae.encoder."),
    ),
    Part(
        "audio_decoder", "audio_vae", AudioVAEConfig, audio_decoder_names, ("audio_vae.decoder.",),
        network=_network(AudioDecoder),
        inputs=lambda c: (_zeros(1, 4, c.audio_vae.latent_bins, c.audio_vae.z_channels),),
        split=("audio_vae", "audio_vae.decoder."),
    ),
    Part(
        "vocoder", "vocoder", VocoderConfig, vocoder_names, ("vocoder.",), network=_network(Vocoder),
        inputs=lambda c: (_zeros(1, 16, c.audio_vae.mel_bins, 2),),
        begin=lambda c, params: params | {"generator": generator.quiet(params["generator"])},
        split=("audio_vae", "vocoder."),
    ),
    *(
        Part(
            name, name, UpsamplerConfig, upsampler_names, ("",), file=name, network=_video_network(LatentUpsampler),
            inputs=lambda c: (_zeros(1, 2, 2, 2, c.video_vae.latent_channels),),
        )
        for name in UPSAMPLERS
    ),
    Part(
        "duration_head", "duration_head", DurationConfig, duration_names, (DURATION_PREFIX,), file="duration_head",
        network=_network(DurationHead), inputs=_contexts,
    ),
    Part(
        "video_statistics", "video_vae", VideoVAEConfig, _statistics_names,
        ("vae.per_channel_statistics.", "per_channel_statistics."), width=lambda c: c.latent_channels,
        split=("video_vae", "per_channel_statistics."),
    ),
    Part(
        "audio_statistics", "audio_vae", AudioVAEConfig, _statistics_names, ("audio_vae.per_channel_statistics.",),
        width=lambda c: c.token_width,
        split=("audio_vae", "audio_vae.per_channel_statistics."),
    ),
)  # fmt: skip


def parts_of(configs: Configs) -> Iterator[Part]:
    """The rows of the parts that a model has."""
    return (part for part in PARTS if isinstance(part.config_of(configs), part.kind))


def find_part(configs: Configs, name: str) -> Part:
    """The row of the part `name` of a model that has it."""
    return next(part for part in parts_of(configs) if part.name == name)


class PartNames(NamedTuple):
    """Official names of a part's tensors, and the prefixes that stand before them in a file."""

    names: list[Name]
    prefixes: tuple[str, ...]


def part_names(configs: Configs) -> dict[str, PartNames]:
    """The names of every part that a model has."""
    return {part.name: PartNames(part.names_of(configs), part.prefixes) for part in parts_of(configs)}


def config_names(*parts: str) -> list[str]:
    """The fields of `Configs` that the parts depend on, each once."""
    return list(dict.fromkeys(part.config for name in parts for part in PARTS if part.name == name))
