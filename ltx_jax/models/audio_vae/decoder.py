"""The audio decoder: latents -> log-mel (spec audio_vae.md section 5)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.models.audio_vae.layers import Block, Level, Middle, Upsample, batch_sharded, check_input

Array = jax.Array

TIME_FACTOR = 4  # mel frames per latent frame; a constant of the format, not derived from the levels


class AudioDecoder(Block):
    """De-normalised latents (B, T, f, Z) -> log-mel (B, 4T - 3, mel_bins, channels); 4T frames without causality.

    The network's own size is cut at the end, or filled up with zeros, to that size; with three levels causal in time
    it already has it. Raises UserError on a wrong number of channels.
    """

    @nn.compact
    def __call__(self, latents: Array) -> Array:
        c, settings = self.config, (self.config, self.dtype, self.param_dtype)
        check_input(latents, c.z_channels, "audio latents")
        x = self.conv("conv_in", c.ch * c.ch_mult[-1])(batch_sharded(latents.astype(self.dtype)))
        x = Middle(*settings, name="mid")(x)
        for i in reversed(range(len(c.ch_mult))):
            features = c.ch * c.ch_mult[i]
            x = Level(*settings, level=i, features=features, count=c.num_res_blocks + 1, name=f"up_{i}")(x)
            if i > 0:
                x = Upsample(*settings, name=f"upsample_{i}")(x)
        x = self.conv("conv_out", c.out_ch)(nn.silu(self.norm("norm_out", x)))
        frames = latents.shape[1] * TIME_FACTOR
        return _fit(x, frames if c.causality_axis == "none" else max(frames - TIME_FACTOR + 1, 1), c.mel_bins)


def _fit(x: Array, frames: int, bins: int) -> Array:
    """Cut x (B, M, bins, C) at the end, or fill it up with zeros, to `frames` and `bins`."""
    x = x[:, :frames, :bins]
    return jnp.pad(x, ((0, 0), (0, frames - x.shape[1]), (0, bins - x.shape[2]), (0, 0)))
