"""How large the tiles of a diffusion decoder are: as large as memory allows (spec video_vae.md section 8)."""

import itertools
import math

from ltx_jax.errors import UserError
from ltx_jax.models.tiling import Factors, Tiling
from ltx_jax.models.video_vae.diffusion_config import DiffusionDecoderConfig
from ltx_jax.splits import by_size

STEPS, LEAST = (8, 32, 32), (16, 64, 64)  # of tile sizes: frames, pixels, pixels


def automatic_tiling(
    config: DiffusionDecoderConfig, pixels: Factors, usable: float, cell_bytes: float
) -> Tiling | None:
    """The tiling of a video of `pixels` (frames, height, width) that computes least twice; None: all at once.

    usable: bytes that the denoising stage may take, of which each of its cells takes `cell_bytes`. Among equals larger
    tiles win, then fewer. Raises UserError where not even the smallest tile fits.
    """
    overlap, cell = config.tile_overlap, config.cell
    axes = [_candidates(config, axis, size) for axis, size in enumerate(pixels)]
    found = []
    for tile in itertools.product(*axes):
        cells = tile[0] * tile[1] * tile[2] / config.patch_size**2
        if cells * cell_bytes <= usable:
            counts = [
                len(by_size(-(-n // by), size // by, shared // by))
                for n, size, shared, by in zip(pixels, tile, overlap, cell, strict=True)
            ]
            volume = math.prod(n * size for n, size in zip(counts, tile, strict=True))
            found.append((volume, -math.prod(tile), math.prod(counts), tile))
    if not found:
        least = " x ".join(str(sizes[0]) for sizes in axes)
        raise UserError(
            f"The smallest tile of the diffusion decoder, {least} (frames, height, width), takes more than the "
            f"{usable / 2**30:.1f} GiB that it may use."
        )
    pairs = [
        None if size >= n else (size, shared)
        for size, n, shared in zip(min(found)[3], pixels, overlap, strict=True)
    ]  # fmt: skip
    return Tiling("size", *pairs) if any(pairs) else None


def _candidates(config: DiffusionDecoderConfig, axis: int, size: int) -> list[int]:
    """Tile sizes to choose from, up to the first that holds all of the axis."""
    factor, step = config.cell[axis], math.lcm(config.cell[axis], STEPS[axis])
    least = max(2 * factor, 2 * config.tile_overlap[axis], config.least_tile[axis] * factor, LEAST[axis])
    least = -(-least // step) * step
    return list(range(least, max(least, -(-size // step) * step) + 1, step))
