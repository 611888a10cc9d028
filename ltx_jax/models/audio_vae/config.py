"""Configurations of the audio VAE and the vocoders, read from and written to the released metadata (audio_vae.md 9)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from ltx_jax.config import from_mapping, to_mapping
from ltx_jax.errors import UserError, require

# ddconfig fields that the reference does not read (or that must have one value only).
_UNREAD = frozenset({"dropout", "downsample_time", "attn_type", "give_pre_end", "tanh_out"})
_PREPROCESSING = ("filter_length", "hop_length", "causal")


@dataclasses.dataclass(frozen=True)
class AudioVAEConfig:
    """Mel front end and VAE. Names are the official ones; a default is what an absent field means.

    ch: width of the first level, times ch_mult per level. attn_resolutions: levels with attention, where `resolution`
    is that of the first level and halves per level. causality_axis: the axis that sees no future, height = time,
    width = mel. sampling_rate in Hz; filter_length (FFT and window) and hop_length in samples; causal: only shifts the
    timing of the latents by the causal first frame (section 6).
    """

    ch: int = 128
    out_ch: int = 2
    in_channels: int = 2
    ch_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (8, 16, 32)
    resolution: int = 256
    z_channels: int = 8
    double_z: bool = True
    norm_type: Literal["pixel", "group"] = "pixel"
    causality_axis: Literal["height", "width", "width-compatibility", "none"] = "height"
    mid_block_add_attention: bool = True
    resamp_with_conv: bool = True
    mel_bins: int = 64
    sampling_rate: int = 16000
    filter_length: int = 1024
    hop_length: int = 160
    causal: bool = True

    def __post_init__(self):
        sizes = (
            "ch", "out_ch", "in_channels", "num_res_blocks", "z_channels", "mel_bins", "sampling_rate", "hop_length",
        )  # fmt: skip
        for name in sizes:
            require(getattr(self, name) >= 1, f"The audio VAE's {name} must be positive, not {getattr(self, name)}.")
        require(
            len(self.ch_mult) >= 1 and min(self.ch_mult) >= 1,
            f"The audio VAE's ch_mult must be positive numbers, not {self.ch_mult}.",
        )
        require(
            self.filter_length >= 2 and self.filter_length % 2 == 0,
            f"The audio VAE's filter_length must be even, not {self.filter_length}.",
        )
        require(self.double_z, "An audio VAE with double_z = false is not supported: set it to true.")
        causal = self.causality_axis != "none"
        require(
            self.norm_type == "pixel" or not causal,
            "Group norm sees the future: it needs causality_axis null, or choose norm_type 'pixel'.",
        )
        require(
            self.norm_type == "pixel" or all(self.ch * m % 32 == 0 for m in (1, *self.ch_mult)),
            "Group norm needs widths that are multiples of 32: change ch and ch_mult, or choose norm_type 'pixel'.",
        )
        require(
            self.resamp_with_conv or not causal, "resamp_with_conv = false needs causality_axis null: set it to true."
        )
        require(self.latent_bins >= 1, f"{self.mel_bins} mel bins are too few for {len(self.ch_mult)} levels.")

    @property
    def latent_bins(self) -> int:
        """Mel bins f of a latent: one halving per level but the last (section 4, Downsample)."""
        bins = self.mel_bins
        for _ in self.ch_mult[1:]:
            bins = (bins + 1) // 2 if self.causality_axis == "width" else bins // 2
        return bins

    @property
    def token_width(self) -> int:
        """Numbers per audio token, Z * f."""
        return self.z_channels * self.latent_bins

    def has_attention(self, level: int) -> bool:
        """Whether the residual blocks of `level` (0 = finest) are each followed by attention."""
        return self.resolution // 2**level in self.attn_resolutions

    @classmethod
    def from_official(cls, mapping: Mapping[str, Any]) -> "AudioVAEConfig":
        """From the metadata block `audio_vae`. Raises UserError on an unknown network field or an unsupported value."""
        params, preprocessing = _group(mapping, "model", "params"), _group(mapping, "preprocessing")
        network = dict(_group(params, "ddconfig"))
        if "causality_axis" in network and network["causality_axis"] is None:
            network["causality_axis"] = "none"
        if network.get("mel_bins") is None:
            bins = _group(preprocessing, "mel").get("n_mel_channels", _group(mapping, "variables").get("mel_bins"))
            require(bins is not None, "The audio VAE's config lacks its number of mel bins: give ddconfig.mel_bins.")
            network["mel_bins"] = bins
        stft = _group(preprocessing, "stft")
        network |= {key: stft[key] for key in _PREPROCESSING if key in stft}
        network |= {"sampling_rate": params["sampling_rate"]} if "sampling_rate" in params else {}
        return from_mapping(cls, network, "audio_vae", _UNREAD)

    def to_official(self) -> dict[str, Any]:
        """The metadata block `audio_vae` that `from_official` reads back; JSON-able."""
        network = to_mapping(self)
        stft = {key: network.pop(key) for key in _PREPROCESSING} | {"win_length": self.filter_length}
        rate = network.pop("sampling_rate")
        if self.causality_axis == "none":
            network["causality_axis"] = None
        return {
            "model": {"params": {"ddconfig": network, "sampling_rate": rate}},
            "preprocessing": {
                "audio": {"sampling_rate": rate, "stereo": self.in_channels == 2},
                "stft": stft,
                "mel": {"n_mel_channels": self.mel_bins, "mel_fmin": 0, "mel_fmax": rate // 2},
            },
        }


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """One vocoder generator (section 7): upsample_rates multiply to the samples per mel frame.

    resblock: "1" (leaky ReLU) or "AMP1" (anti-aliased periodic activation, `activation`). output_sampling_rate in Hz.
    """

    upsample_initial_channel: int = 1024
    resblock: Literal["1", "AMP1"] = "1"
    upsample_rates: tuple[int, ...] = (6, 5, 2, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 15, 8, 4, 4)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    stereo: bool = True
    activation: Literal["snake", "snakebeta"] = "snake"
    use_tanh_at_final: bool = True
    use_bias_at_final: bool = True
    apply_final_activation: bool = True
    output_sampling_rate: int = 24000

    def __post_init__(self):
        stages = len(self.upsample_rates)
        require(
            stages == len(self.upsample_kernel_sizes) and stages > 0,
            f"The vocoder's upsample_rates and upsample_kernel_sizes must be of equal length, but are "
            f"{self.upsample_rates} and {self.upsample_kernel_sizes}.",
        )
        require(
            all(1 <= r <= k for r, k in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True)),
            f"No upsampling kernel may be smaller than its rate: {self.upsample_kernel_sizes}, {self.upsample_rates}.",
        )
        require(
            len(self.resblock_kernel_sizes) == len(self.resblock_dilation_sizes) > 0,
            "The vocoder needs one list of resblock_dilation_sizes for each of its resblock_kernel_sizes.",
        )
        require(
            all(k % 2 for k in self.resblock_kernel_sizes),
            f"The vocoder's resblock_kernel_sizes must be odd, not {self.resblock_kernel_sizes}.",
        )
        require(
            self.upsample_initial_channel % 2**stages == 0,
            f"upsample_initial_channel {self.upsample_initial_channel} must be divisible by 2^{stages}.",
        )
        require(self.stereo, "Only stereo vocoders are supported: set stereo to true.")

    @property
    def upsampling(self) -> int:
        """Output samples per mel frame."""
        return math.prod(self.upsample_rates)

    def width(self, stage: int) -> int:
        """Channels after `stage` upsamplings."""
        return self.upsample_initial_channel // 2**stage


@dataclasses.dataclass(frozen=True)
class BandwidthConfig(GeneratorConfig):
    """The bandwidth extension (section 8): a generator on the mel of the first stage's waveform, and that mel.

    Rates in Hz, n_fft (also the window) and hop_length in samples at the input rate.
    """

    apply_final_activation: bool = False
    input_sampling_rate: int = 16000
    output_sampling_rate: int = 48000
    hop_length: int = 80
    n_fft: int = 512
    num_mels: int = 64

    def __post_init__(self):
        super().__post_init__()
        require(
            self.input_sampling_rate >= 1 and self.ratio >= 1,
            f"The bandwidth extension cannot go from {self.input_sampling_rate} to {self.output_sampling_rate} Hz.",
        )
        require(
            self.upsampling == self.hop_length * self.ratio,
            f"The bandwidth extension's upsample_rates make {self.upsampling} samples per frame where hop_length x "
            f"ratio is {self.hop_length * self.ratio}.",
        )
        require(
            self.n_fft % 2 == 0 and self.n_fft >= self.hop_length,
            f"The bandwidth extension's n_fft must be even and at least hop_length, not {self.n_fft}.",
        )

    @property
    def ratio(self) -> int:
        """Output samples per input sample."""
        return self.output_sampling_rate // self.input_sampling_rate


@dataclasses.dataclass(frozen=True)
class VocoderConfig:
    """A generator (2.0), or a generator and the bandwidth extension after it (2.3, 2.5)."""

    vocoder: GeneratorConfig = GeneratorConfig()
    bwe: BandwidthConfig | None = None

    @property
    def sampling_rate(self) -> int:
        """Rate of the final waveform in Hz."""
        return (self.bwe or self.vocoder).output_sampling_rate

    @property
    def upsampling(self) -> int:
        """Final samples per mel frame."""
        return self.vocoder.upsampling * (1 if self.bwe is None else self.bwe.ratio)

    @classmethod
    def from_official(cls, mapping: Mapping[str, Any]) -> "VocoderConfig":
        """From the metadata block `vocoder`, flat or {"vocoder", "bwe"}. Raises UserError on what it does not know."""
        if "bwe" not in mapping:
            flat = mapping.get("vocoder", mapping)
            return cls(from_mapping(GeneratorConfig, flat, "vocoder", frozenset({"win_size"})))
        # The extension has no final activation whatever the field says.
        second = dict(_group(mapping, "bwe")) | {"apply_final_activation": False}
        return cls(
            from_mapping(GeneratorConfig, _group(mapping, "vocoder"), "vocoder.vocoder"),
            from_mapping(BandwidthConfig, second, "vocoder.bwe", frozenset({"win_size"})),
        )

    def to_official(self) -> dict[str, Any]:
        """The metadata block `vocoder` that `from_official` reads back; JSON-able."""
        if self.bwe is None:
            return to_mapping(self.vocoder)
        return {"vocoder": to_mapping(self.vocoder), "bwe": to_mapping(self.bwe) | {"win_size": self.bwe.n_fft}}


def _group(mapping: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The nested mapping at `path`, empty where absent."""
    for key in path:
        mapping = mapping.get(key) or {}
        if not isinstance(mapping, Mapping):
            raise UserError(f"'{key}' in the audio config must be a group of settings, not {mapping!r}.")
    return mapping
