"""Latent upsamplers: twice or 1.5 times the rows and columns, or twice the frames (spec video_vae.md section 9)."""

import dataclasses
import fractions
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.config import from_mapping, to_mapping
from ltx_jax.errors import require
from ltx_jax.models.layers import partitioned
from ltx_jax.models.video_vae.conv import IMPLEMENTATIONS, ConvImpl
from ltx_jax.models.video_vae.layers import GroupNorm, Stride, batch_sharded, depth_to_space

Array = jax.Array

CLASS_NAME = "LatentUpsampler"
GROUPS, EPS = 32, 1e-5
SCALES = (0.75, 1.5, 2.0, 4.0)  # of the rational resampler
BLUR = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(np.float32) / 256


@dataclasses.dataclass(frozen=True)
class UpsamplerConfig:
    """An upsampler. Names are the official ones; a default is what an absent field means.

    dims: of the convolutions, 2: frame by frame. rational_resampler: rows and columns grow by `spatial_scale`, by
    shuffling and blurring; else they double. It says nothing of upsamplers that double the frames.
    """

    in_channels: int = 128
    mid_channels: int = 512
    num_blocks_per_stage: int = 4
    dims: int = 3
    spatial_upsample: bool = True
    temporal_upsample: bool = False
    spatial_scale: float = 2.0
    rational_resampler: bool = False

    def __post_init__(self):
        for name in ("in_channels", "mid_channels"):
            require(getattr(self, name) >= 1, f"The upsampler's {name} must be positive, not {getattr(self, name)}.")
        require(self.num_blocks_per_stage >= 0, "The upsampler's num_blocks_per_stage must not be negative.")
        require(
            self.mid_channels % GROUPS == 0,
            f"The upsampler's mid_channels must be a multiple of {GROUPS}, not {self.mid_channels}.",
        )
        require(
            self.spatial_upsample or self.temporal_upsample,
            "An upsampler needs spatial_upsample or temporal_upsample: this one does neither.",
        )
        require(self.dims in (2, 3), f"An upsampler has 2 or 3 dims, not {self.dims}.")
        require(
            self.dims == 3 or not (self.temporal_upsample or self.rational),
            "An upsampler with dims 2 can only double rows and columns.",
        )
        require(
            not self.rational or self.spatial_scale in SCALES,
            f"The rational upsampler knows the scales {', '.join(map(str, SCALES))}, not {self.spatial_scale}.",
        )

    @property
    def rational(self) -> bool:
        """Whether rows and columns are resampled by a fraction."""
        return self.rational_resampler and self.spatial_upsample and not self.temporal_upsample

    @property
    def fraction(self) -> tuple[int, int]:
        """The rational resampler's scale as (numerator, denominator)."""
        scale = fractions.Fraction(self.spatial_scale)
        return scale.numerator, scale.denominator

    @property
    def stride(self) -> Stride:
        """By what the shuffle multiplies (frames, rows, columns); the rational one then keeps one in `fraction[1]`."""
        space = self.fraction[0] if self.rational else 2 if self.spatial_upsample else 1
        return (2 if self.temporal_upsample else 1, space, space)

    def upsampled(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent sizes behind the upsampler."""
        time, rows, columns = self.stride
        step = self.fraction[1] if self.rational else 1
        return frames * time - (time - 1), (height * rows - 1) // step + 1, (width * columns - 1) // step + 1

    @classmethod
    def from_official(cls, mapping: Mapping[str, Any]) -> "UpsamplerConfig":
        """From the metadata `config` of an upsampler's own file. Raises UserError for another model's."""
        kind = mapping.get("_class_name", CLASS_NAME)
        require(kind == CLASS_NAME, f"This is the configuration of a '{kind}', not of a {CLASS_NAME}.")
        return from_mapping(cls, mapping, "upsampler", frozenset({"_class_name"}))

    def to_official(self) -> dict[str, Any]:
        """The metadata `config` that `from_official` reads back; JSON-able."""
        return {"_class_name": CLASS_NAME, **to_mapping(self)}


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What all layers of one upsampler share. frames: of the convolutions' kernels; see conv.py for `impl`."""

    frames: int
    impl: ConvImpl
    dtype: Any
    param_dtype: Any

    def conv(self, name: str, features: int, frames: int | None = None) -> "ZeroConv":
        """A convolution; it must be made inside a compact method."""
        frames = self.frames if frames is None else frames
        return ZeroConv(features, frames, self.impl, self.dtype, self.param_dtype, name=name)

    def norm(self, name: str) -> GroupNorm:
        """A group norm; it must be made inside a compact method."""
        return GroupNorm(GROUPS, self.param_dtype, EPS, name=name)


class ZeroConv(nn.Module):
    """Convolution with bias and zeros beyond the edges of all axes, frames too.

    kernel: (3, 3, 3, in, out), or (3, 3, in, out) where `frames`, its length along them, is 1.
    """

    features: int
    frames: int = 3
    impl: ConvImpl = "native"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3,) * (2 + (self.frames > 1)) + (x.shape[-1], self.features)
        init = partitioned(nn.initializers.lecun_normal(), *("kernel",) * (len(shape) - 2), "conv_in", "conv_out")
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        bias = self.param("bias", partitioned(nn.initializers.zeros, "conv_out"), (self.features,), self.param_dtype)
        kernel = kernel.reshape(self.frames, *shape[-4:])
        around = self.frames // 2
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (around, around), (0, 0), (0, 0), (0, 0)))
        return IMPLEMENTATIONS[self.impl](x, kernel, (1, 1, 1), ((1, 1), (1, 1))) + bias.astype(self.dtype)


class ResBlock(nn.Module):
    """silu(x + norm2(conv2(silu(norm1(conv1(x)))))): the activation comes after the sum."""

    settings: _Settings

    @nn.compact
    def __call__(self, x: Array) -> Array:
        s, width = self.settings, x.shape[-1]
        h = nn.silu(s.norm("norm1")(s.conv("conv1", width)(x)))
        return nn.silu(x + s.norm("norm2")(s.conv("conv2", width)(h)))


class Resampler(nn.Module):
    """Convolution, then shuffle by the config's stride; frames lose the first, the rational one blurs and strides."""

    settings: _Settings
    config: UpsamplerConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        s, c, width = self.settings, self.config, x.shape[-1]
        frames = 3 if c.temporal_upsample else 1
        x = depth_to_space(s.conv("conv", width * int(np.prod(c.stride)), frames)(x), c.stride)
        if c.temporal_upsample:
            return x[:, 1:]
        if not c.rational:
            return x
        init = partitioned(lambda key, shape, dtype: jnp.asarray(BLUR, dtype).reshape(shape), None, None, None, None)
        blur = self.param("blur", init, (1, 1, 5, 5), s.param_dtype)
        return x if c.fraction[1] == 1 else _blurred(x, blur.astype(x.dtype), c.fraction[1])


def _blurred(x: Array, blur: Array, step: int) -> Array:
    """x (B, F, H, W, C), each channel blurred by `blur` (1, 1, 5, 5), zeros outside, at every `step`-th place."""
    b, f, h, w, c = x.shape
    kernel = jnp.tile(blur.transpose(2, 3, 0, 1), (1, 1, 1, c))  # (5, 5, 1, C)
    y = jax.lax.conv_general_dilated(
        x.reshape(b * f, h, w, c), kernel, (step, step), ((2, 2), (2, 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=c,
    )  # fmt: skip
    return y.reshape(b, f, *y.shape[1:])


class LatentUpsampler(nn.Module):
    """Latents (B, F, H, W, C), not normalised, -> more of them, see `UpsamplerConfig.upsampled`; x's dtype out.

    conv_impl: see video_vae/conv.py. Raises UserError for another number of channels.
    """

    config: UpsamplerConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    conv_impl: ConvImpl = "native"

    @nn.compact
    def __call__(self, latents: Array) -> Array:
        c = self.config
        require(
            latents.ndim == 5 and latents.shape[-1] == c.in_channels,
            f"The latents must have the shape (batch, frames, height, width, {c.in_channels}), but have "
            f"{latents.shape}.",
        )
        (b, f), s = latents.shape[:2], _Settings(2 * c.dims - 3, self.conv_impl, self.dtype, self.param_dtype)
        x = latents.reshape(b * f, 1, *latents.shape[2:]) if c.dims == 2 else latents  # norms run over one frame, too
        x = batch_sharded(x)
        x = nn.silu(s.norm("initial_norm")(s.conv("initial_conv", c.mid_channels)(x)))
        for i in range(c.num_blocks_per_stage):
            x = ResBlock(s, name=f"res_blocks_{i}")(x)
        x = Resampler(s, c, name="upsampler")(x)
        for i in range(c.num_blocks_per_stage):
            x = ResBlock(s, name=f"post_upsample_res_blocks_{i}")(x)
        x = s.conv("final_conv", c.in_channels)(x).astype(latents.dtype)
        return x.reshape(b, f, *x.shape[2:]) if c.dims == 2 else x
