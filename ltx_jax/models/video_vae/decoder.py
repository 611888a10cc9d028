"""The convolutional video decoder: latents -> pixels (spec video_vae.md section 5)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.errors import require
from ltx_jax.models.layers import partitioned
from ltx_jax.models.video_vae.blocks import AttnBlock, DepthToSpaceUpsample, MidBlock, ResnetBlock
from ltx_jax.models.video_vae.config import BlockConfig, VideoVAEConfig
from ltx_jax.models.video_vae.conv import ConvImpl
from ltx_jax.models.video_vae.layers import (
    Settings,
    TimestepEmbedder,
    batch_sharded,
    modulate,
    modulation,
    unpatchify,
)  # fmt: skip
from ltx_jax.rng import normal

Array = jax.Array

DECODE_TIMESTEP = 0.05
DECODE_NOISE_SCALE = 0.025
TIMESTEP_SCALE = 1000.0


def mix_decode_noise(latents: Array, noise: Array, scale: float = DECODE_NOISE_SCALE) -> Array:
    """What a timestep-conditioned decoder wants: `scale` noise + (1 - scale) latents, of NORMALISED latents."""
    return scale * noise + (1.0 - scale) * latents


def noise_shapes(config: VideoVAEConfig, height: int, width: int) -> list[tuple[int, int]]:
    """Shapes (H, W) of the noises that decoding height x width latents injects, in run order."""
    shapes: list[tuple[int, int]] = []
    for block in reversed(config.decoder_blocks):
        if block.inject_noise:
            shapes += [(height, width)] * (2 * _residual_blocks(block))
        height, width = height * block.stride[1], width * block.stride[2]
    return shapes


def draw_noises(key: Array, config: VideoVAEConfig, height: int, width: int) -> list[Array]:
    """Standard normal noises for `VideoDecoder`, one per shape of `noise_shapes`; independent of the batch."""
    shapes = noise_shapes(config, height, width)
    return [normal(jax.random.fold_in(key, i), shape) for i, shape in enumerate(shapes)]


class VideoDecoder(nn.Module):
    """Latents (B, F', H', W', C), not normalised, -> pixels (B, F, h, w, 3), about [-1, 1] and not clamped.

    F = (F' - 1) t + 1. timestep (B,): for timestep-conditioned decoders, 0.05 where absent. noises: for decoders that
    inject noise, one (H, W) per shape of `noise_shapes` (see `draw_noises`); absent ones are zero. conv_impl: see
    conv.py. Raises UserError on a wrong number of channels or noises, or a VAE whose decoder is of another kind.
    """

    config: VideoVAEConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    conv_impl: ConvImpl = "native"

    @nn.compact
    def __call__(self, latents: Array, timestep: Array | None = None, noises: Sequence[Array] | None = None) -> Array:
        c, s = self.config, self._settings()
        self._check(latents, noises)
        scaled = self._scaled_timestep(latents.shape[0], timestep) if c.timestep_conditioning else None
        x = s.conv("conv_in", c.bottleneck_channels)(batch_sharded(latents.astype(self.dtype)))
        rest = None if noises is None else list(noises)
        for i, block in enumerate(reversed(c.decoder_blocks)):
            x = batch_sharded(_up_block(block, s, x, f"up_blocks_{i}", scaled, rest))
        x = s.norm("conv_norm_out", x)
        if scaled is not None:
            width = x.shape[-1]
            embedding = TimestepEmbedder(2 * width, self.param_dtype, name="last_time_embedder")(scaled)
            init = partitioned(nn.initializers.normal(width**-0.5), "rows", "conv_out")
            table = self.param("last_scale_shift_table", init, (2, width), self.param_dtype)
            x = modulate(x, *modulation(table, embedding))
        x = s.conv("conv_out", c.out_channels * c.patch_size**2)(nn.silu(x))
        return unpatchify(x, c.patch_size).astype(latents.dtype)

    def _settings(self) -> Settings:
        c = self.config
        return Settings(
            padding=c.decoder_padding, causal=c.causal_decoder, norm_layer=c.norm_layer,
            timestep=c.timestep_conditioning, conv_impl=self.conv_impl, dtype=self.dtype, param_dtype=self.param_dtype,
        )  # fmt: skip

    def _check(self, latents: Array, noises: Sequence[Array] | None) -> None:
        c = self.config
        require(
            c.class_name == VideoVAEConfig.class_name and bool(c.decoder_blocks),
            f"The video VAE '{c.class_name}' describes no convolutional decoder, so it cannot decode here: "
            "use a VAE with decoder_blocks.",
        )
        require(
            latents.ndim == 5 and latents.shape[-1] == c.latent_channels,
            f"The latents must have the shape (batch, frames, height, width, {c.latent_channels}), but have "
            f"{latents.shape}.",
        )
        if noises is not None:
            wanted = noise_shapes(c, *latents.shape[2:4])
            require(
                [tuple(n.shape) for n in noises] == wanted,
                f"Decoding these latents takes noises of the shapes {wanted}, not {[tuple(n.shape) for n in noises]}.",
            )

    def _scaled_timestep(self, batch: int, timestep: Array | None) -> Array:
        if timestep is None:
            timestep = jnp.full((batch,), DECODE_TIMESTEP)
        init = partitioned(nn.initializers.constant(TIMESTEP_SCALE))
        scale = self.param("timestep_scale_multiplier", init, (), self.param_dtype)
        return timestep.astype(jnp.float32) * scale.astype(jnp.float32)


def _residual_blocks(block: BlockConfig) -> int:
    return {"res_x": block.num_layers, "res_x_y": 1}.get(block.name, 0)


def _up_block(
    block: BlockConfig, settings: Settings, x: Array, name: str, timestep: Array | None, noises: list[Array] | None
) -> Array:
    """x through one block of the decoder, registered as `name`; takes its noises from the front of `noises`."""
    mine = None
    if noises is not None and block.inject_noise:
        count = 2 * _residual_blocks(block)
        mine, noises[:count] = noises[:count], []
    divisor = block.decoder_divisor
    if block.name == "res_x":
        return MidBlock(settings, block.num_layers, block.inject_noise, name=name)(x, timestep, mine)
    if block.name == "res_x_y":  # never timestep-conditioned
        plain = dataclasses.replace(settings, timestep=False)
        return ResnetBlock(plain, x.shape[-1] // divisor, block.inject_noise, name=name)(x, None, mine)
    if block.name == "attn":
        return AttnBlock(settings, name=name)(x)
    residual = block.residual and block.name == "compress_all"
    return DepthToSpaceUpsample(settings, block.stride, divisor, residual, name=name)(x)
