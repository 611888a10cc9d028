"""Configuration of the causal video VAE, read from written to released metadata (spec video_vae.md section 1)."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ltx_jax.config import from_mapping, to_mapping
from ltx_jax.errors import UserError, require
from ltx_jax.models.video_vae.diffusion_config import DiffusionDecoderConfig

Padding = Literal["zeros", "reflect", "replicate", "circular"]

# Metadata fields that the reference never reads (section 1.1).
_UNREAD = frozenset(
    {
        "_class_name", "dims", "encoder_base_channels", "base_channels", "scaling_factor", "use_quant_conv",
        "normalize_latent_channels", "decoder_spatial_padding_mode", "latent_log_var_value",
    }
)  # fmt: skip
# What the encoder of the nested layout calls differently (section 1.2).
_NESTED_NAMES = {"blocks": "encoder_blocks", "out_channels": "latent_channels"}

# Strides (time, height, width) of a compression, by the words of its name.
STRIDES = {"time": (2, 1, 1), "space": (1, 2, 2), "all": (2, 2, 2)}
ENCODER_BLOCKS = (
    "res_x", "res_x_y", "compress_time", "compress_space", "compress_all", "compress_all_x_y",
    "compress_time_res", "compress_space_res", "compress_all_res", "attn",
)  # fmt: skip
DECODER_BLOCKS = ("res_x", "res_x_y", "compress_time", "compress_space", "compress_all", "attn")


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """One entry of a block list. multiplier None means the block's own default; unused fields are ignored."""

    name: str
    num_layers: int = 1
    multiplier: int | None = None
    residual: bool = False
    inject_noise: bool = False

    def __post_init__(self):
        require(self.num_layers >= 1, f"The block '{self.name}' needs num_layers of at least 1, not {self.num_layers}.")
        require(
            self.multiplier is None or self.multiplier >= 1,
            f"The block '{self.name}' needs a multiplier of at least 1, not {self.multiplier}.",
        )

    @property
    def stride(self) -> tuple[int, int, int]:
        """Compression (time, height, width); (1, 1, 1) for blocks that keep the size."""
        return STRIDES[self.name.split("_")[1]] if self.name.startswith("compress_") else (1, 1, 1)

    @property
    def encoder_multiplier(self) -> int:
        """How many times wider an encoder block makes its input (section 4)."""
        wider = self.name == "res_x_y" or self.name.endswith(("_x_y", "_res"))
        return (self.multiplier or 2) if wider else 1

    @property
    def decoder_divisor(self) -> int:
        """How many times narrower a decoder block makes its input (section 5)."""
        if self.name == "res_x_y":
            return self.multiplier or 2
        return (self.multiplier or 1) if self.name.startswith("compress_") else 1

    @property
    def is_strided_conv(self) -> bool:
        """Whether this encoder block is one plain strided convolution."""
        return self.name.startswith("compress_") and not self.name.endswith("_res")

    @classmethod
    def from_official(cls, entry: Any, where: str) -> "BlockConfig":
        """From `[name, params]`; params may be an int n, meaning {"num_layers": n}."""
        if isinstance(entry, (str, Mapping)) or not isinstance(entry, Iterable) or len(tuple(entry)) != 2:
            raise UserError(f"'{where}' must be a pair [name, settings], not {entry!r}.")
        name, params = entry
        params = {"num_layers": params} if isinstance(params, int) else params
        if not isinstance(params, Mapping):
            raise UserError(f"The settings in '{where}' must be a group or a number of layers, not {params!r}.")
        return from_mapping(cls, {**params, "name": name}, where)

    def to_official(self) -> list[Any]:
        """The entry `[name, params]`, JSON-able, without settings that are at their defaults."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        params = {k: v for k, v in to_mapping(self).items() if k != "name" and v != defaults[k]}
        return [self.name, params]


@dataclasses.dataclass(frozen=True)
class VideoVAEConfig:
    """Encoder and decoder. Names are the official ones; a default is what an absent field means.

    encoder_blocks run in order, from width latent_channels; decoder_blocks are listed shallow to deep and run in
    reverse. spatial_padding_mode, where given, governs both halves; else the encoder takes
    encoder_spatial_padding_mode and the decoder reflects. class_name: a VAE that is no "CausalVideoAutoencoder" has
    the decoder `diffusion` in the place of the convolutional one.
    """

    class_name: str = "CausalVideoAutoencoder"
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 128
    encoder_blocks: tuple[BlockConfig, ...] = ()
    decoder_blocks: tuple[BlockConfig, ...] = ()
    patch_size: int = 4
    norm_layer: Literal["pixel_norm", "group_norm"] = "pixel_norm"
    latent_log_var: Literal["uniform", "per_channel", "constant"] = "uniform"
    spatial_padding_mode: Padding | None = None
    encoder_spatial_padding_mode: Padding = "zeros"
    causal_decoder: bool = False
    timestep_conditioning: bool = True
    decoder_base_channels: int = 128
    diffusion: DiffusionDecoderConfig | None = None

    def __post_init__(self):
        require(
            self.diffusion is None or self.diffusion.in_channels == self.latent_channels,
            f"The diffusion decoder reads {self.diffusion and self.diffusion.in_channels} channels, but latents have "
            f"{self.latent_channels}.",
        )
        for name in ("in_channels", "out_channels", "latent_channels", "patch_size", "decoder_base_channels"):
            require(getattr(self, name) >= 1, f"The video VAE's {name} must be positive, not {getattr(self, name)}.")
        for what, blocks, known in (
            ("encoder", self.encoder_blocks, ENCODER_BLOCKS),
            ("decoder", self.decoder_blocks, DECODER_BLOCKS),
        ):
            for block in blocks:
                require(
                    block.name in known,
                    f"The video {what} knows no block '{block.name}': choose among {', '.join(known)}.",
                )
        self._check_encoder_widths()
        self._check_decoder_widths()

    def _check_encoder_widths(self) -> None:
        width = self.latent_channels
        for block in self.encoder_blocks:
            previous, width = width, width * block.encoder_multiplier
            product = math.prod(block.stride)
            require(
                not block.name.endswith("_res") or (width % product == 0 and previous * product % width == 0),
                f"The encoder block '{block.name}' cannot turn {previous} into {width} channels: the new width must be "
                f"a multiple of {product} and divide {previous * product}.",
            )

    def _check_decoder_widths(self) -> None:
        width = self.bottleneck_channels
        for block in reversed(self.decoder_blocks):
            product, divisor = math.prod(block.stride), block.decoder_divisor
            require(
                width % divisor == 0 and product * width % divisor == 0,
                f"The decoder block '{block.name}' cannot divide {width} channels by {divisor}.",
            )
            require(
                not (block.name == "compress_all" and block.residual)
                or (width % product == 0 and product % divisor == 0),
                f"The residual decoder block '{block.name}' needs a width divisible by {product} and a multiplier "
                f"that divides {product}, not {width} and {divisor}.",
            )
            require(
                not (block.name == "res_x_y" and block.inject_noise and divisor > 1),
                "A decoder block 'res_x_y' that changes the width cannot inject noise: set inject_noise to false.",
            )
            width //= divisor

    @property
    def encoder_padding(self) -> Padding:
        """Padding of space in the encoder."""
        return self.spatial_padding_mode or self.encoder_spatial_padding_mode

    @property
    def decoder_padding(self) -> Padding:
        """Padding of space in the decoder."""
        return self.spatial_padding_mode or "reflect"

    @property
    def bottleneck_channels(self) -> int:
        """Width of the decoder behind its first convolution (section 5)."""
        return self.decoder_base_channels * math.prod(b.decoder_divisor for b in self.decoder_blocks)

    @property
    def moment_channels(self) -> int:
        """Outputs of the encoder's last convolution: means and log-variance (section 2)."""
        return 2 * self.latent_channels if self.latent_log_var == "per_channel" else self.latent_channels + 1

    @property
    def encoder_factors(self) -> tuple[int, int, int]:
        """Pixels per latent (time, height, width) of the encoder (section 2)."""
        return self._factors(self.encoder_blocks)

    @property
    def decoder_factors(self) -> tuple[int, int, int]:
        """Pixels per latent (time, height, width) of the decoder."""
        return self._factors(self.decoder_blocks) if self.diffusion is None else self.diffusion.factors

    @property
    def scale_factors(self) -> tuple[int, int, int]:
        """Pixels per latent (time, height, width): the encoder's, or the decoder's where there is no encoder."""
        return self.encoder_factors if self.encoder_blocks else self.decoder_factors

    def _factors(self, blocks: tuple[BlockConfig, ...]) -> tuple[int, int, int]:
        time, height, width = (math.prod(s) for s in zip((1, 1, 1), *(b.stride for b in blocks), strict=True))
        return time, height * self.patch_size, width * self.patch_size

    @classmethod
    def from_official(cls, mapping: Mapping[str, Any]) -> "VideoVAEConfig":
        """From the metadata block `vae`, flat (1.1) or nested (1.2).

        Raises UserError on an unknown field or an unsupported value.
        """
        fields = _flat_fields(mapping)
        dims = fields.get("dims", 3)
        require(dims == 3, f"Only video VAEs with dims 3 are supported, not {dims!r}.")
        require(
            fields.get("latent_log_var") != "none",
            "A video VAE without a log-variance (latent_log_var 'none') is not supported: choose 'uniform'.",
        )
        for name in ("encoder_blocks", "decoder_blocks"):
            if name in fields:
                entries = enumerate(fields[name])
                fields[name] = tuple(BlockConfig.from_official(e, f"vae.{name}[{i}]") for i, e in entries)
        fields["class_name"] = mapping.get("_class_name", cls.class_name)
        if fields["class_name"] != cls.class_name and isinstance(mapping.get("decoder"), Mapping):
            kind = mapping.get("model_output_type", "v")
            fields["diffusion"] = DiffusionDecoderConfig.from_official(mapping["decoder"], kind)
        return from_mapping(cls, fields, "vae", _UNREAD)

    def to_official(self) -> dict[str, Any]:
        """The metadata block `vae` that `from_official` reads back; JSON-able."""
        fields = to_mapping(self)
        fields["encoder_blocks"] = [b.to_official() for b in self.encoder_blocks]
        fields["decoder_blocks"] = [b.to_official() for b in self.decoder_blocks]
        del fields["diffusion"]
        if self.spatial_padding_mode is None:
            del fields["spatial_padding_mode"]
        flat = {"_class_name": fields.pop("class_name"), "dims": 3, **fields}
        if self.class_name == VideoVAEConfig.class_name:
            return flat
        names = {ours: theirs for theirs, ours in _NESTED_NAMES.items()}
        read = ("in_channels", "patch_size", "norm_layer", "latent_log_var", *names)
        encoder = {names.get(k, k): flat[k] for k in read}
        nested = {
            "_class_name": self.class_name,
            "dims": 3,
            "encoder": {"_class_name": "Encoder", **encoder, "spatial_padding_mode": self.encoder_padding},
        }
        if self.diffusion is None:
            return nested
        return nested | {
            "decoder": self.diffusion.to_official(),
            "model_output_type": self.diffusion.model_output_type,
        }


def _flat_fields(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of either layout under the names of the flat one."""
    encoder = mapping.get("encoder")
    if encoder is None:
        return {k: v for k, v in mapping.items() if k not in ("decoder", "model_output_type")}
    if not isinstance(encoder, Mapping):
        raise UserError(f"'vae.encoder' must be a group of settings, not {encoder!r}.")
    fields: dict[str, Any] = {
        k: mapping[k] for k in ("dims", "latent_channels", "encoder_spatial_padding_mode") if k in mapping
    }
    fields |= {str(_NESTED_NAMES.get(k, k)): v for k, v in encoder.items() if k != "spatial_padding_mode"}
    if "spatial_padding_mode" in encoder:  # the vae-level key of this name is not the encoder's
        fields["encoder_spatial_padding_mode"] = encoder["spatial_padding_mode"]
    return fields
