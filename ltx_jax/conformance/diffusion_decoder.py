"""Recorded cases of the 2.5 diffusion video decoder (spec video_vae.md 7 and 8). Recordings are channels-first."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.conformance.video_vae import (
    Outputs,
    case_statistics,
    case_tiling,
    channels_first,
    channels_last,
    recorded_noises,
)  # fmt: skip
from ltx_jax.models import latents as statistics
from ltx_jax.models import tiling
from ltx_jax.models.video_vae.config import VideoVAEConfig
from ltx_jax.models.video_vae.diffusion_decoder import DiffusionVideoDecoder
from ltx_jax.names import to_tree
from ltx_jax.names.diffusion_decoder import diffusion_decoder_names


def _decode(case: Case) -> Outputs:
    config = VideoVAEConfig.from_official(case.config["vae"]).diffusion
    assert config is not None
    params = {"params": to_tree(diffusion_decoder_names(config), case.weights, "decoder.")}
    latents = statistics.denormalize(channels_last(case.inputs["latent"]), case_statistics(case))
    if "tiling" in case.config:
        return _decode_tiles(case, DiffusionVideoDecoder(config), params, latents)
    noise = channels_last(case.inputs["noise"])
    parts = {"video": 0, "video_chunked": case.config.get("w_chunks", 4)}
    decode = lambda slabs: jax.jit(DiffusionVideoDecoder(config, slabs=slabs).apply)(params, latents, noise)
    return {name: channels_first(decode(slabs)) for name, slabs in parts.items() if name in case.outputs}


def _decode_tiles(case: Case, decoder: DiffusionVideoDecoder, params: Mapping[str, Any], latents: jax.Array) -> Outputs:
    c, sizes = decoder.config, (latents.shape[1], latents.shape[2], latents.shape[3])
    cells = jax.jit(decoder.apply, static_argnames="method")(params, latents, method="grid")
    grid = c.grid(c.padded(sizes))
    plan = tiling.cell_plan(grid, case_tiling(case), c.cell, c.tile_overlap, c.least_tile)
    drawn = recorded_noises(case.inputs)
    order = [[axis.source for axis in tile] for tile in plan.tiles()]

    def decode(tile: tiling.Tile) -> np.ndarray:
        part = tiling.CellTile.of(tile, grid[0], c.cells(sizes)[0] - grid[0])
        corner = [axis.source[0] for axis in tile]
        region = cells[:, *(slice(at, at + n) for at, n in zip(corner, part.cells, strict=True))]
        if drawn:
            noise = channels_last(drawn[order.index([axis.source for axis in tile])])
        else:
            noise = channels_last(case.inputs["noise"])[(slice(None), *(slice(*axis.target) for axis in tile))]
        run = jax.jit(decoder.apply, static_argnames=("method", "starts", "ends"))
        pixels = run(params, region, noise, method="denoise", starts=part.starts, ends=part.ends)
        return np.asarray(pixels)[:, : part.frames]

    chunks = list(tiling.cropped(tiling.blended(decode, plan), c.content(sizes)))
    return {
        "video": channels_first(np.concatenate(chunks, axis=1)),
        "chunk_frames": np.array([chunk.shape[1] for chunk in chunks]),
    }


KINDS: dict[str, Callable[[Case], Outputs]] = {"video_vae.diffusion_decode": _decode}
