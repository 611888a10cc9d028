"""Recorded cases of latents in tiles and of detail rendering (spec sampling.md 12.13, 12.14)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.diffusion import dfr, geometry
from ltx_jax.diffusion import latent_tiles as lt
from ltx_jax.diffusion.tiled import blend_tiles, stack_tiles

Outputs = dict[str, Any]


def _latent_tiling(case: Case) -> Outputs:
    """Tiles of a latent with key frames of its own size appended."""
    batch, _, frames, rows, columns = case.config["shape"]
    grid, fps = (frames, rows, columns), case.config["fps"]
    appended = [_whole_keyframe(grid, frame, fps, batch) for frame in case.config["keyframes"]]
    positions = np.concatenate([geometry.video_positions(*grid, fps, batch=batch), *appended], axis=2)
    tiles = lt.latent_tiles(grid, case.config["counts"])
    indices = [lt.token_indices(tile, grid, positions) for tile in tiles]
    outputs: Outputs = {}
    for n, (tile, index) in enumerate(zip(tiles, indices, strict=True)):
        outputs |= {
            f"tile{n}_region": np.array(tile.region),
            f"tile{n}_token_indices": index,
            f"tile{n}_weights": tile.weights,
            f"tile{n}_positions": lt.tile_positions(positions, index, tile.weights.size),
        }
    tokens = [case.inputs[f"tile{n}_tokens"] for n in range(len(tiles))]
    together = jnp.asarray(stack_tiles(tokens, axis=1).swapaxes(0, 1))  # (B, N, K, C)
    parts = (stack_tiles(indices), np.array([len(index) for index in indices]))
    weights = stack_tiles(lt.token_weights(tiles, indices, grid))
    return {**outputs, "blended": blend_tiles(together, *parts, weights, positions.shape[2])}


def _whole_keyframe(grid: lt.Grid, frame: int, fps: float, batch: int) -> np.ndarray:
    return geometry.keyframe_positions((1, *grid[1:]), frame, fps, batch=batch)


def _layout(case: Case) -> Outputs:
    outputs: Outputs = {}
    for i, (frames, rounds) in enumerate(case.config["cases"]):
        canvas = dfr.canvas(frames)
        anchors = canvas.positions
        outputs |= {f"canvas_{i}": np.array([canvas.frames, canvas.segment]), f"positions_{i}": np.array(anchors)}
        for r in range(1, rounds + 1):
            anchors = dfr.doubled(anchors)
            tiles = dfr.round_tiles(anchors, 2**r)
            outputs[f"tiles_{i}_{r}"] = np.array([(*t.pixels, *t.latents, t.drop) for t in tiles])
            for j, tile in enumerate(tiles):
                outputs |= {f"anchors_{i}_{r}_{j}": np.array(tile.anchors), f"slots_{i}_{r}_{j}": np.array(tile.slots)}
            anchors = tuple(dfr.next_anchors(tiles, anchors))
    return outputs


def _stitch(case: Case) -> Outputs:
    anchors = dfr.doubled(dfr.canvas(case.config["num_frames"]).positions)
    tiles = dfr.round_tiles(anchors, case.config["num_tiles"])
    latents = [case.inputs[f"tile_{j}"] for j in range(len(tiles))]
    return {"stitched": dfr.stitched(tiles, latents, axis=2)}


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "diffusion.latent_tiling": _latent_tiling,
    "diffusion.dfr.layout": _layout,
    "diffusion.dfr.stitch": _stitch,
}
