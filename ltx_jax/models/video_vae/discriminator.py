"""A discriminator of video patches in space and time, for the adversarial training of the video autoencoder.

PatchGAN (Isola et al., arXiv:1611.07004) with convolutions over time, as video tokenizers train with it (for example
MAGVIT, Yu et al., arXiv:2212.05199). No such network is published for this family; sizes are ours.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltx_jax.models.layers import rms_norm
from ltx_jax.models.video_vae.conv import ConvImpl
from ltx_jax.models.video_vae.layers import Settings

Array = jax.Array


class VideoDiscriminator(nn.Module):
    """Pixels (B, F, h, w, 3) in [-1, 1] -> logits (B, F', h', w') float32, high where a patch looks real.

    levels: convolutions of stride 2, the first over space alone, each doubling the width from `base`; a logit sees a
    patch of about 2^(levels + 2) pixels. Height and width must be multiples of 2^levels.
    """

    base: int = 32
    levels: int = 3
    conv_impl: ConvImpl = "native"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, video: Array) -> Array:
        s = Settings(causal=False, conv_impl=self.conv_impl, dtype=self.dtype)
        x = video.astype(self.dtype)
        for level in range(self.levels):
            stride = (1 if level == 0 else 2, 2, 2)
            x = s.conv(f"conv_{level}", self.base * 2**level, stride)(x)
            x = jax.nn.leaky_relu(x if level == 0 else rms_norm(x), 0.2)
        return s.conv("conv_out", 1)(x)[..., 0].astype(jnp.float32)
