"""The causal video encoder: pixels -> moments of the latents (spec video_vae.md sections 2 and 4)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.errors import require
from ltx_jax.models.latents import MIN_LOG_VARIANCE
from ltx_jax.models.video_vae.blocks import AttnBlock, MidBlock, ResnetBlock, SpaceToDepthDownsample
from ltx_jax.models.video_vae.config import BlockConfig, VideoVAEConfig
from ltx_jax.models.video_vae.conv import ConvImpl
from ltx_jax.models.video_vae.layers import Settings, batch_sharded, patchify

Array = jax.Array


def crop_frames(config: VideoVAEConfig, video: Any) -> Any:
    """video (B, F, H, W, C) without its last frames, so that 1 + k t frames are left (t: the time factor)."""
    return video[:, : video.shape[1] - (video.shape[1] - 1) % config.encoder_factors[0]]


def check_video_shape(config: VideoVAEConfig, frames: int, height: int, width: int) -> None:
    """Raise UserError unless the encoder takes `frames` frames of height x width pixels."""
    time, *space = config.encoder_factors
    require(
        frames >= 1 and (frames - 1) % time == 0,
        f"A video of {frames} frames does not fit the video VAE: the number of frames must be 1 + {time} k, "
        f"so use {max(0, frames - 1) // time * time + 1} frames.",
    )
    for what, pixels, factor in zip(("height", "width"), (height, width), space, strict=True):
        require(
            pixels >= factor and pixels % factor == 0,
            f"A {what} of {pixels} pixels does not fit the video VAE: it must be a multiple of {factor}, "
            f"so use {max(1, pixels // factor) * factor} pixels.",
        )


class VideoEncoder(nn.Module):
    """Pixels (B, F, h, w, 3) in [-1, 1] -> (means, log_variance), each (B, F', H', W', C) and not normalised.

    F = 1 + (F' - 1) t, h and w are multiples of the space factor; all convolutions are causal, so a latent never
    depends on later pixels than its own. Raises UserError on sizes that do not fit (see `check_video_shape`,
    `crop_frames`). conv_impl: see conv.py.
    """

    config: VideoVAEConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    conv_impl: ConvImpl = "native"

    def __call__(self, video: Array) -> tuple[Array, Array]:
        return split_moments(self.config, self.moments(video))

    @nn.compact
    def moments(self, video: Array) -> Array:
        """The last convolution's outputs (B, F', H', W', moment_channels), see `split_moments`."""
        c, s = self.config, self._settings()
        require(bool(c.encoder_blocks), "This video VAE's config has no encoder_blocks, so it cannot encode.")
        require(
            video.ndim == 5 and video.shape[-1] == c.in_channels,
            f"The video must have the shape (batch, frames, height, width, {c.in_channels}), but has {video.shape}.",
        )
        check_video_shape(c, *video.shape[1:4])
        x = patchify(batch_sharded(video.astype(self.dtype)), c.patch_size)
        x = s.conv("conv_in", c.latent_channels)(x)
        for i, block in enumerate(c.encoder_blocks):
            x = batch_sharded(_down_block(block, s, x, f"down_blocks_{i}"))
        return s.conv("conv_out", c.moment_channels)(nn.silu(s.norm("conv_norm_out", x)))

    def _settings(self) -> Settings:
        c = self.config
        return Settings(
            padding=c.encoder_padding, causal=True, norm_layer=c.norm_layer, conv_impl=self.conv_impl,
            dtype=self.dtype, param_dtype=self.param_dtype,
        )  # fmt: skip


def split_moments(config: VideoVAEConfig, moments: Array) -> tuple[Array, Array]:
    """(means, log_variance), both (..., C), of the encoder's outputs (section 2, Log-variance)."""
    means, rest = moments[..., : config.latent_channels], moments[..., config.latent_channels :]
    if config.latent_log_var == "constant":
        return means, jnp.full_like(means, MIN_LOG_VARIANCE)
    return means, jnp.broadcast_to(rest, means.shape)  # "uniform" has one channel for all


def _down_block(block: BlockConfig, settings: Settings, x: Array, name: str) -> Array:
    """x through one block of the encoder, registered as `name`."""
    features = x.shape[-1] * block.encoder_multiplier
    if block.name == "res_x":
        return MidBlock(settings, block.num_layers, name=name)(x)
    if block.name == "res_x_y":
        return ResnetBlock(settings, features, name=name)(x)
    if block.name == "attn":
        return AttnBlock(settings, name=name)(x)
    if block.is_strided_conv:
        return settings.conv(name, features, block.stride)(x)
    return SpaceToDepthDownsample(settings, features, block.stride, name=name)(x)
