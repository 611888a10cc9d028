"""The audio encoder: log-mel -> moments of the latents (spec audio_vae.md section 5)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.models.audio_vae.layers import Block, Downsample, Level, Middle, batch_sharded, check_input

Array = jax.Array


class AudioEncoder(Block):
    """Log-mel (B, M, bins, channels) -> (mean, log_variance), each (B, T, f, Z) and not normalised.

    T = ceil(M / 4) and f = bins // 4 with three levels that are causal in time. Only the mean is used downstream; the
    log-variance serves the training of the VAE itself. Raises UserError on a wrong number of channels.
    """

    @nn.compact
    def __call__(self, mel: Array) -> tuple[Array, Array]:
        c, settings = self.config, (self.config, self.dtype, self.param_dtype)
        check_input(mel, c.in_channels, "mel spectrogram")
        x = self.conv("conv_in", c.ch)(batch_sharded(mel.astype(self.dtype)))
        for i, multiplier in enumerate(c.ch_mult):
            x = Level(*settings, level=i, features=c.ch * multiplier, count=c.num_res_blocks, name=f"down_{i}")(x)
            if i + 1 < len(c.ch_mult):
                x = Downsample(*settings, name=f"downsample_{i}")(x)
        x = Middle(*settings, name="mid")(x)
        moments = self.conv("conv_out", 2 * c.z_channels)(nn.silu(self.norm("norm_out", x)))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, log_variance
