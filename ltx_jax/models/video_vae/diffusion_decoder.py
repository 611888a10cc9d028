"""The 2.5 diffusion video decoder: latents -> pixels, denoised under a context (spec video_vae.md sections 7 and 8).

Letters: F', H', W' latents; T, H, W cells of a stage; f, h, w pixels; C channels.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.errors import require
from ltx_jax.models.layers import Linear
from ltx_jax.models.video_vae.conv import pad_time
from ltx_jax.models.video_vae.diffusion_blocks import (
    ByFrames,
    NeighbourhoodBlock,
    PixelsIn,
    PixelsOut,
    Stage,
    Upsample,
)  # fmt: skip
from ltx_jax.models.video_vae.diffusion_config import DiffusionDecoderConfig, Sizes
from ltx_jax.models.video_vae.layers import TimestepEmbedder, batch_sharded
from ltx_jax.rng import normal

Array = jax.Array


def draw_noise(
    keys: Array, canvas: Sizes, dtype: Any, start: tuple[Any, Any, Any] = (0, 0, 0), size: Sizes | None = None
) -> Array:
    """Standard normal noise (B, f, h, w, 3) for keys (B,): of a canvas of (frames, height, width), the part of `size`
    from `start` (numbers or ()) on, or all of it. A pixel's number depends on its clip's key and its place alone, so
    that tiles agree where they overlap."""
    size = canvas if size is None else size

    def frame(number: Array) -> Array:
        draw = lambda key: normal(jax.random.fold_in(key, number), (*canvas[1:], 3))
        whole = jax.vmap(draw)(keys).astype(dtype)  # (B, h, w, 3)
        return jax.lax.dynamic_slice(whole, (0, *start[1:], 0), (len(keys), *size[1:], 3))

    return jnp.moveaxis(jax.lax.map(frame, start[0] + jnp.arange(size[0])), 0, 1)


class DiffusionVideoDecoder(nn.Module):
    """Latents (B, F', H', W', C), not normalised, and noise -> pixels (B, f, h, w, 3) float32, not clamped.

    f = (F' - 1) t + 1. noise: standard normal numbers (B, *config.canvas((F', H', W')), 3). `grid` and `denoise` are
    its two halves, for clips whose second half runs in tiles. slabs: of the last stage, see diffusion_blocks.Stage.
    Raises UserError on a wrong number of channels or another shape of noise.
    """

    config: DiffusionDecoderConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    slabs: int = 0

    def setup(self):
        c = self.config
        stage = lambda window=(1, 1, 1), slabs=0: Stage(window, c.head_dim, slabs, self.dtype, self.param_dtype)
        plain, last = stage(), stage(c.stage5_kernel, self.slabs)
        self.conv_in = Linear(c.stage_channels[0], ("conv_in", "embed"), True, self.dtype, self.param_dtype)
        self.det_stages = [
            _blocks(stage(window), depth)
            for window, depth in zip(c.stage_kernels[:-1], c.stage_depths[:-1], strict=True)
        ]
        self.upsamples = [
            ByFrames(Upsample, (plain, stride, narrower), int(np.prod(stride)) * width // narrower)
            for (stride, narrower), width in zip(c.upsamples, c.stage_channels[:-1], strict=True)
        ]
        self.t_embedder = TimestepEmbedder(c.t_emb_dim, self.param_dtype)
        self.shared_adaln = Linear(7 * c.width, ("conv_in", "embed"), param_dtype=self.param_dtype)
        self.conv_in_x_t = ByFrames(PixelsIn, (plain, c.patch_size, c.width), c.width)
        self.diff_blocks = _blocks(last, c.stage_depths[-1])
        self.conv_out = ByFrames(PixelsOut, (plain, c.patch_size, c.out_channels), c.width)

    def __call__(self, latents: Array, noise: Array) -> Array:
        sizes, c = latents.shape[1:4], self.config
        canvas = c.canvas(sizes)
        require(
            noise.shape == (latents.shape[0], *canvas, c.out_channels),
            f"Decoding these latents takes noise of the shape {(latents.shape[0], *canvas, c.out_channels)}, not "
            f"{noise.shape}.",
        )
        return self.denoise(self.grid(latents), noise)[:, *c.content(sizes)]

    def grid(self, latents: Array) -> Array:
        """Cells (B, *config.cells((F', H', W')), C) that the last context stage works on: of padded latents and ghosts
        behind them (7.1)."""
        c = self.config
        require(
            latents.ndim == 5 and latents.shape[-1] == c.in_channels,
            f"The latents must have the shape (batch, frames, height, width, {c.in_channels}), but have "
            f"{latents.shape}.",
        )
        x = batch_sharded(latents.astype(self.dtype))
        need = [most - size for most, size in zip(c.padded(x.shape[1:4]), x.shape[1:4], strict=True)]
        x = pad_time(x, 0, need[0])
        around = [(n // 2, n - n // 2) for n in need[1:]]
        x = jnp.pad(x, ((0, 0), (0, 0), *around, (0, 0)), mode="edge")
        x = self.conv_in(pad_time(x, 0, c.ghosts))
        for blocks, upsample, stride in zip(self.det_stages[:-1], self.upsamples, c.strides, strict=False):
            x = _without_first(upsample(blocks(x)[0]), stride[0] == 2)
        return x

    def denoise(self, cells: Array, noise: Array, starts: bool = True, ends: bool = True) -> Array:
        """Pixels (B, f, h, w, 3) float32 of some of `grid`'s cells.

        starts: whether these are the first frames; ends: whether ghosts are behind them, which are cut (8). noise:
        (B, f, h, w, 3), whose last frame is repeated where it is short.
        """
        c = self.config
        context = _without_first(self.upsamples[-1](self.det_stages[-1](cells)[0]), starts and c.strides[-1][0] == 2)
        context = context[:, : c.kept_frames(context.shape[1])] if ends else context
        frames = context.shape[1]
        x = pad_time(noise, 0, max(0, frames - noise.shape[1]))[:, :frames]
        times = np.append(np.linspace(1.0, 1.0 / c.default_num_inference_steps, c.default_num_inference_steps), 0.0)
        for t, after in itertools.pairwise(times):
            made = self._predict(x, context, t)
            if c.model_output_type == "x0" and after == 0:
                return made
            x = x.astype(jnp.float32)
            velocity = made if c.model_output_type == "v" else (x - made) / t
            x = (x - (t - after) * velocity).astype(self.dtype)
        return x.astype(jnp.float32)

    def _predict(self, x: Array, context: Array, time: float) -> Array:
        """What the network makes of noisy pixels (B, f, h, w, 3) at a time in (0, 1], float32."""
        scaled = jnp.full((1,), time * self.config.timestep_scale_multiplier, jnp.float32)
        embedding = self.shared_adaln(nn.silu(self.t_embedder(scaled)))  # (1, 7 C)
        cells = self.diff_blocks(self.conv_in_x_t(x.astype(self.dtype)), context, embedding)[0]
        return self.conv_out(cells)


def _blocks(stage: Stage, depth: int) -> Any:
    """The blocks of a stage under one `nn.scan`, so that compile time does not grow with depth."""
    scan: Any = nn.scan(
        NeighbourhoodBlock, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast,
        length=depth, metadata_params={nn.PARTITION_NAME: "layers"},
    )  # fmt: skip
    return scan(stage)


def _without_first(x: Array, drop: bool) -> Array:
    return x[:, 1:] if drop else x
