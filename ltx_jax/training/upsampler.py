"""The stage of the latent upsampler: latents of clips at half size in, those of the same clips at full size wanted.

How the family's upsamplers were trained is not published. Here the trained video encoder, which stays as it is, encodes
every clip at both sizes, and the upsampler learns the way from one to the other: L1 and L2 on normalised latents, which
weigh all channels alike. Letters: B batch, F'/H/W latent frames/rows/columns, C channels.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.bundle import Networks, abstract_parts, abstract_weights, initial_parts, networks_on
from ltx_jax.codec import VIDEO_ENCODER, upsample_latents, video_tokens
from ltx_jax.data.config import DataConfig
from ltx_jax.data.pipeline import Batches
from ltx_jax.data.raw.item import Item, Source
from ltx_jax.data.raw.source import open_source
from ltx_jax.diffusion.geometry import VideoShape, latent_shape, unpatchify_video
from ltx_jax.errors import require
from ltx_jax.parallel.multihost import batch_share
from ltx_jax.parallel.program import batch_like, place
from ltx_jax.releases import Release
from ltx_jax.training.config import UpsamplerStageConfig
from ltx_jax.training.dit.clips import shrunk
from ltx_jax.training.loop import Stage
from ltx_jax.training.record import base_record
from ltx_jax.training.setting import UPSAMPLER, Params, Setting, make_initializer
from ltx_jax.training.step import Metrics, Microbatch, make_train_program

Array = jax.Array
SIZES = ("video", "small")  # of a clip in a batch: full, and half


@dataclasses.dataclass(frozen=True)
class UpsamplerObjective:
    """The loss of clips {"video": uint8 (B, F, h, w, 3), "small": uint8 (B, F, h/2, w/2, 3)}.

    `frozen` holds {"params"}: the video encoder's and its statistics.
    """

    networks: Networks
    config: UpsamplerStageConfig

    def __call__(self, params: Any, frozen: Any, batch: Mapping[str, Array], at: Array | Microbatch) -> Any:
        """The loss, () float32, its terms, and the squared error of the small latents repeated, which it must beat."""
        del at
        parts = {**frozen["params"], **params}
        wanted, small = (jax.lax.stop_gradient(self._latents(parts, batch[name])) for name in SIZES)
        error = upsample_latents(self.networks, parts, small, UPSAMPLER).astype(jnp.float32) - wanted
        absolute, square = jnp.mean(jnp.abs(error)), jnp.mean(jnp.square(error))
        repeated = jnp.repeat(jnp.repeat(small, 2, axis=2), 2, axis=3)
        metrics: Metrics = {"l1": absolute, "square": square, "repeated": jnp.mean(jnp.square(repeated - wanted))}
        return absolute + self.config.square_weight * square, metrics

    def _latents(self, parts: Any, video: Array) -> Array:
        """Normalised latents (B, F', H, W, C), float32."""
        grid = latent_shape(VideoShape(*video.shape[1:4]), self.networks.release.video_vae.scale_factors)
        return unpatchify_video(video_tokens(self.networks, parts, video).astype(jnp.float32), *grid)


class Pairs:
    """Every clip of `full` with the same clip of `half`: a source of {"video", "small"}."""

    def __init__(self, full: Source, half: Source):
        self._full, self._half = full, half
        self.fingerprint = f"{full.fingerprint} beside {half.fingerprint}"

    def __len__(self) -> int:
        return len(self._full)

    def item(self, number: int, draw: int) -> Item:
        """Clip `number` at both sizes."""
        return {"video": self._full.item(number, draw)["video"], "small": self._half.item(number, draw)["video"]}


def collate_pairs(items: list[Item]) -> dict[str, Any]:
    """A batch of pairs."""
    return {name: np.stack([item[name] for item in items]) for name in SIZES}


def upsampler_stage(setting: Setting, source: Source, encoder: Params, start: Params | None) -> Stage:
    """The stage `upsampler` on the clips of `source` and the same at half size.

    encoder: parameters of the video encoder and its statistics, which stay as they are. start: parameters of the
    upsampler to begin with, or None for random ones.
    """
    config, mesh, seed = setting.config.upsampler, setting.mesh, setting.config.seed
    half = shrunk(setting.data, 2)

    # --- shapes: of the parameters, and of a batch ------------------------------------------------------------------
    networks = networks_on(mesh, setting.release, config.dtype)
    with jax.set_mesh(mesh):
        shapes, axes = abstract_parts(networks, (UPSAMPLER,))
    frozen = {"params": abstract_weights(networks, VIDEO_ENCODER, mesh)}
    struct = lambda d: jax.ShapeDtypeStruct((config.batch_size, d.frames, d.height, d.width, 3), jnp.uint8)
    batch = dict(zip(SIZES, map(struct, (setting.data, half)), strict=True))

    # --- step -------------------------------------------------------------------------------------------------------
    objective = UpsamplerObjective(networks, config)
    program = make_train_program(objective, config, shapes, axes, frozen, batch_like(batch, mesh), mesh)
    fixed = place({"params": {part: encoder[part] for part in VIDEO_ENCODER}}, frozen)
    random = lambda: initial_parts(networks, (UPSAMPLER,), seed)

    # --- data -------------------------------------------------------------------------------------------------------
    share, shares = batch_share(mesh, config.batch_size)
    make_batches = functools.partial(
        Batches, Pairs(source, open_source(half, setting.workdir)), setting.data.seed, config.batch_size, collate_pairs,
        workers=setting.data.workers, process_index=share, process_count=shares,
    )  # fmt: skip
    return Stage(
        name="upsampler", config=config, program=program, frozen=fixed, batches=make_batches,
        initialize=make_initializer(setting, program, "upsampler", random, start, axes),
        identity=setting.identity("upsampler") | base_record(fixed),
    )  # fmt: skip


def check_upsampler_stage(release: Release, data: DataConfig) -> None:
    """Raise UserError unless the release has an upsampler that makes full-size latents of those of half size."""
    config, half = release.spatial_upsampler, shrunk(data, 2)
    require(config is not None, "This model has no latent upsampler to train: set config.model.spatial_upsampler.")
    assert config is not None
    grid = lambda d: latent_shape(VideoShape(d.frames, d.height, d.width), release.video_vae.scale_factors)
    small, wanted = grid(half), grid(data)
    require(
        config.upsampled(*small) == wanted,
        f"The latent upsampler makes {config.upsampled(*small)} of the {small} latents of a clip of half size, but the "
        f"full size has {wanted}: train one that doubles rows and columns.",
    )
