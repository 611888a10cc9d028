"""From latents to frames where a clip is too long or large to be decoded at once: in tiles, as frames are asked for."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ltx_jax import codec
from ltx_jax.bundle import Networks
from ltx_jax.diffusion.geometry import VideoShape, latent_shape
from ltx_jax.errors import require
from ltx_jax.models import tiling
from ltx_jax.models.tiling import CellTile, Tile, Tiling, long_side_tiling
from ltx_jax.models.video_vae.config import VideoVAEConfig
from ltx_jax.models.video_vae.diffusion_config import DiffusionDecoderConfig
from ltx_jax.models.video_vae.diffusion_tiling import automatic_tiling
from ltx_jax.parallel.program import Program

WHOLE = (80, 768)  # frames and pixels of the longer side up to which clips are decoded whole
# Bytes that a diffusion decoder's last stage may take, and how many values of its width each of its cells does, two
# bytes each (8.7 in the program that the TPU compiler makes of it): on every device the same, as tiles change a clip.
USABLE, VALUES = 7 << 30, 9

Run = Callable[..., Any]  # (make a program, *its arguments, inputs=...) -> what it makes of them


@jax.jit  # once for all calls: a second clip of a shape compiles nothing
def _all_finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all()


def check_finite(latents: Any, sounds: np.ndarray) -> None:
    """Raise UserError for a sampled batch that is not made of numbers, which would become a black clip.

    latents: (B, T, C) without padding; sounds: (B, 2, samples).
    """
    finite = bool(_all_finite(latents)) and bool(np.isfinite(sounds).all())
    require(
        finite,
        "The sampled clip contains NaN or infinite values and is not written: the weights of the checkpoint or of a "
        "LoRA are damaged, or a strength or guidance scale is far too large.",
    )


def tiling_of(shape: VideoShape, vae: VideoVAEConfig) -> Tiling | None:
    """How clips of a shape are decoded: in the published tiles where they are long or large, or whole (None)."""
    if vae.diffusion is not None:
        bytes_ = 2 * VALUES * vae.diffusion.width
        return automatic_tiling(vae.diffusion, (shape.frames, shape.height, shape.width), USABLE, bytes_)
    if shape.frames <= WHOLE[0] and max(shape.height, shape.width) <= WHOLE[1]:
        return None
    return long_side_tiling(shape.height, shape.width, vae.scale_factors)


def decode_pieces(
    networks: Networks, run: Run, latents: np.ndarray, key: np.ndarray, tiling_: Tiling
) -> Iterator[np.ndarray]:
    """uint8 frames (f, h, w, 3), one piece after the other, of normalised latents (1, F, H, W, C).

    run: runs programs of codec.py with the weights of its VIDEO_DECODER. key: (1, 2), see `codec.decode_means`.
    """
    vae = networks.release.video_vae
    if vae.diffusion is None:
        decode = lambda tile: run(codec.make_decode_tile_program, _like(tile), inputs=(tile,))
        pieces = tiling.tiled_decode(decode, latents, tiling_, vae.scale_factors)
    else:
        pieces = _denoised(vae.diffusion, run, latents, key, tiling_)
    for piece in pieces:
        if piece.shape[1]:  # the first tiles may begin at the same frame
            yield np.stack([np.asarray(codec.to_uint8(frame)) for frame in piece[0]])


def _denoised(
    config: DiffusionDecoderConfig, run: Run, latents: np.ndarray, key: np.ndarray, tiling_: Tiling
) -> Iterator[np.ndarray]:
    sizes = latents.shape[1:4]
    cells = run(codec.make_decode_cells_program, _like(latents), inputs=(latents,))
    plan, part = _plan(config, sizes, tiling_)

    def decode(tile: Tile) -> np.ndarray:
        start = np.array([axis.source[0] for axis in tile], np.int32)
        make = (codec.make_denoise_cells_program, _like(cells), part(tile), config.canvas(sizes))
        return np.asarray(run(*make, inputs=(cells, key, start)))

    return tiling.cropped(tiling.blended(decode, plan), config.content(sizes))


def _plan(
    config: DiffusionDecoderConfig, sizes: tuple[int, ...], tiling_: Tiling
) -> tuple[tiling.TilePlan, Callable[[Tile], CellTile]]:
    """The tiles of latents (F, H, W), and what each of them reads."""
    grid, cells = config.grid(config.padded(sizes)), config.cells(sizes)
    plan = tiling.cell_plan(grid, tiling_, config.cell, config.tile_overlap, config.least_tile)
    return plan, lambda tile: CellTile.of(tile, grid[0], cells[0] - grid[0])


def decode_programs(networks: Networks, shape: VideoShape, tokens: Any, mesh: Mesh) -> dict[str, Program]:
    """The programs that decode clips of a shape, by name; of tiles that of the largest. tokens: abstract, (B, T, C)."""
    vae = networks.release.video_vae
    grid, tiling_ = latent_shape(shape, vae.scale_factors), tiling_of(shape, vae)
    if tiling_ is None:
        return {"video decoder": codec.make_decode_video_program(networks, grid, tokens, mesh)}
    largest = lambda plan: max(plan.tiles(), key=lambda t: np.prod([a.source[1] - a.source[0] for a in t]))
    clip = lambda sizes: jax.ShapeDtypeStruct((1, *sizes, tokens.shape[2]), np.float32)
    if vae.diffusion is None:
        tile = largest(tiling.decode_plan(grid, tiling_, vae.scale_factors))
        latents = clip([axis.source[1] - axis.source[0] for axis in tile])
        return {"video decoder, of one tile": codec.make_decode_tile_program(networks, latents, mesh)}
    (plan, part), config = _plan(vae.diffusion, grid, tiling_), vae.diffusion
    cells = jax.ShapeDtypeStruct((1, *config.cells(grid), config.stage_channels[-2]), networks.dtype)
    denoise = codec.make_denoise_cells_program(networks, cells, part(largest(plan)), config.canvas(grid), mesh)
    return {
        "video decoder, up to its tiles": codec.make_decode_cells_program(networks, clip(grid), mesh),
        "video decoder, of one tile": denoise,
    }


def _like(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
