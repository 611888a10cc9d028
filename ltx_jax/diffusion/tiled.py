"""A network that sees the video in overlapping tiles, each of them with the whole sound (spec sampling.md 12.13).

What attention costs falls with the square of a tile's share, and its memory with it. Letters: B rows of the network,
N tiles, K tokens of the largest tile, T video tokens, C channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ltx_jax.diffusion.conditioning import LatentState
from ltx_jax.diffusion.latent_tiles import Counts, latent_tiles, tile_positions, token_indices, token_weights
from ltx_jax.errors import require
from ltx_jax.streams import Array, Rotary, Stream, length_mask


class Tiles(struct.PyTreeNode):
    """Which tokens every tile sees, where they stand, and what they count.

    index: (N, K) int32, tokens of the whole; shorter tiles are padded at their tail. length: (N,) int32, real tokens.
    weights: (N, K) float32, 0 on padding. rotary, cross_rotary: tables whose index is (N, K, axes). side_by_side: all
    tiles in one call of the network, on its batch axis, or else one after the other.
    """

    index: Array
    length: Array
    weights: Array
    rotary: Rotary
    cross_rotary: Rotary | None = None
    side_by_side: bool = struct.field(pytree_node=False, default=False)


# Positions float32 (N, 3, K, 2) -> rotary tables of a video stream's self-attention, and of that across streams.
MakeTables = Callable[[np.ndarray], tuple[Rotary, Rotary | None]]


def make_tiles(state: LatentState, counts: Counts, tables: MakeTables, *, side_by_side: bool = False) -> Tiles:
    """The tiles of a video state, on the host. Raises UserError where the latent has too few cells for them."""
    tiles = latent_tiles(state.grid, counts)
    indices = [token_indices(tile, state.grid, state.positions) for tile in tiles]
    positions = [
        tile_positions(state.positions[:1], index, tile.weights.size)[0]  # (3, K, 2)
        for tile, index in zip(tiles, indices, strict=True)
    ]

    def of_all(rotary: Rotary | None) -> Rotary | None:
        if rotary is None:
            return None
        return rotary.replace(index=jnp.broadcast_to(rotary.index, (len(tiles), *rotary.index.shape[1:])))

    rotary, cross_rotary = (of_all(table) for table in tables(stack_tiles(positions, axis=1)))
    assert rotary is not None
    return Tiles(
        index=jnp.asarray(stack_tiles(indices)),
        length=jnp.asarray([len(index) for index in indices], jnp.int32),
        weights=jnp.asarray(stack_tiles(token_weights(tiles, indices, state.grid))),
        rotary=rotary,
        cross_rotary=cross_rotary,
        side_by_side=side_by_side,
    )


def stack_tiles(arrays: Sequence[np.ndarray], axis: int = 0) -> np.ndarray:
    """Arrays of tiles as one, (N, ...), with zeros behind the tokens of shorter ones; axis: where tokens stand."""
    longest = max(a.shape[axis] for a in arrays)
    padding = lambda a: [(0, (longest - n) * (i == axis)) for i, n in enumerate(a.shape)]
    return np.stack([np.pad(a, padding(a)) for a in arrays])


def in_tiles(predict: Callable[..., Any], tiles: Tiles) -> Callable[..., Any]:
    """`predict`, a network of x0 (see `sample.PredictX0`), as one that is shown the video tile by tile.

    The x0 of a token is the weighted sum of those that its tiles give it, that of the sound the tiles' mean. Raises
    UserError for a stream with a dense mask.
    """

    def predict_whole(
        video: Stream | None, audio: Stream | None, names: tuple[str, ...], keep: Array | None
    ) -> tuple[Array | None, Array | None]:
        require(video is not None and video.bias is None, "Tiles need a video stream, and one without a dense mask.")
        assert video is not None
        shown = lambda tile: predict(_tiled(video, tile), _repeated(audio, len(tile.index)), names, keep)
        x0: Any
        sound: Any
        if tiles.side_by_side:
            x0, sound = shown(tiles)
        else:
            one = lambda part: shown(_with_parts(tiles, jax.tree.map(lambda x: x[None], part)))
            found: Any = jax.lax.map(one, _parts(tiles))  # (N, B, K, C), (N, B, A, C)
            x0, sound = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), found)
        (rows, whole, _), (count, tokens) = video.latent.shape, tiles.index.shape
        blended = blend_tiles(x0.reshape(rows, count, tokens, -1), tiles.index, tiles.length, tiles.weights, whole)
        if audio is None:
            return blended, None
        return blended, jnp.mean(sound.reshape(rows, count, *audio.latent.shape[1:]), axis=1)

    return predict_whole


def blend_tiles(tokens: Array, index: Array, length: Array, weights: Array, count: int) -> Array:
    """The whole's tokens (B, count, C) float32 from those of its tiles (B, N, K, C); see `Tiles` for the others."""
    rows, tiles, longest, channels = tokens.shape
    real = length_mask(length, tiles, longest)[..., None]
    shares = jnp.where(real, tokens * weights[..., None], 0).reshape(rows, tiles * longest, channels)
    return jnp.zeros((rows, count, channels), jnp.float32).at[:, index.reshape(-1)].add(shares)


def _parts(tiles: Tiles) -> dict[str, Array]:
    """What differs from tile to tile."""
    cross = {} if tiles.cross_rotary is None else {"cross": tiles.cross_rotary.index}
    return {"index": tiles.index, "length": tiles.length, "rotary": tiles.rotary.index, **cross}


def _with_parts(tiles: Tiles, parts: dict[str, Array]) -> Tiles:
    """Tiles with those parts alone."""
    cross = None if tiles.cross_rotary is None else tiles.cross_rotary.replace(index=parts["cross"])
    rotary = tiles.rotary.replace(index=parts["rotary"])
    return tiles.replace(index=parts["index"], length=parts["length"], rotary=rotary, cross_rotary=cross)


def _tiled(stream: Stream, tiles: Tiles) -> Stream:
    """The tiles of every row, row by row: (B * N, K, ...)."""
    rows, (count, tokens) = stream.latent.shape[0], tiles.index.shape

    def take(x: Array | None) -> Array | None:
        return None if x is None else x[:, tiles.index].reshape(rows * count, tokens, *x.shape[2:])

    def tables(rotary: Rotary | None) -> Rotary | None:
        return None if rotary is None else rotary.replace(index=jnp.tile(rotary.index, (rows, 1, 1)))

    return stream.replace(
        latent=take(stream.latent), level_index=take(stream.level_index), keyframes=take(stream.keyframes),
        groups=take(stream.groups), weights=take(stream.weights), sigma=jnp.repeat(stream.sigma, count),
        levels=jnp.repeat(stream.levels, count, axis=0), length=jnp.tile(tiles.length, rows),
        rotary=tables(tiles.rotary), cross_rotary=tables(tiles.cross_rotary),
    )  # fmt: skip


def _repeated(stream: Stream | None, count: int) -> Stream | None:
    """Every row of a stream `count` times, row by row."""
    if stream is None or count == 1:
        return stream
    return stream.with_rows(lambda x: jnp.repeat(x, count, axis=0))
