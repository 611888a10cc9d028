"""A network in tiles: one tile is the whole, and what sees no neighbours does not see the cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion import conditioning, geometry, items, sample
from ltx_jax.diffusion.tiled import in_tiles, make_tiles
from ltx_jax.errors import UserError
from ltx_jax.streams import Rotary

GRID, CHANNELS = (2, 4, 5), 3
COUNTS = ((1, 0), (2, 1), (2, 2))


def tables(positions):
    """Rotary tables that only carry positions: the index counts tokens of each tile."""
    index = np.zeros((*positions.shape[:1], positions.shape[2], 3), np.int32)
    return Rotary((), (), jnp.asarray(index)), None


def state(batch=2):
    positions = geometry.video_positions(*GRID, 24.0, batch=batch)
    tokens = jax.random.normal(jax.random.key(0), (batch, 40, CHANNELS))
    begun = conditioning.initial_state(tokens, positions, GRID, video=True)
    seen = items.Appended(tokens[:, :20], geometry.keyframe_positions((1, 4, 5), 3, 24.0), 0.5).apply(begun)
    return conditioning.LatentAtIndex(tokens[:, :20], strength=0.7).apply(seen)


def stream_of(begun):
    return sample.make_track(begun, tables(begun.positions[:1])[0]).at(jnp.float32(0.5))


def pointwise(video, audio, names, keep):
    """x0 of every token from itself alone; of the sound from the mean of the picture it is shown."""
    t = video.timesteps()[..., None]
    x0 = 2 * video.latent + t + video.keyframes[..., None]
    return x0, None if audio is None else audio.latent + jnp.mean(video.sigma)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_tokens_that_see_only_themselves_do_not_see_tiles(side_by_side):
    begun = state()
    video = stream_of(begun)
    audio = sample.make_track(begun, tables(begun.positions[:1])[0]).at(jnp.float32(0.5))
    tiles = make_tiles(begun, COUNTS, tables, side_by_side=side_by_side)
    assert tiles.index.shape[0] == 4 and len(set(tiles.length.tolist())) > 1  # so some are padded
    found = jax.jit(lambda v, a: in_tiles(pointwise, tiles)(v, a, ("cond",), None))(video, audio)
    for ours, whole in zip(found, pointwise(video, audio, ("cond",), None), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-5)


def test_one_tile_is_the_whole_whatever_the_network():
    begun = state()
    video = stream_of(begun)
    mixing = lambda v, a, names, keep: (v.latent - jnp.mean(v.latent, axis=1, keepdims=True), None)
    tiles = make_tiles(begun, ((1, 0), (1, 0), (1, 0)), tables)
    ours, _ = in_tiles(mixing, tiles)(video, None, ("cond",), None)
    np.testing.assert_allclose(ours, mixing(video, None, (), None)[0], atol=1e-5)


def test_padding_of_tiles_counts_for_nothing():
    begun = state()
    video = stream_of(begun)
    tiles = make_tiles(begun, COUNTS, tables)

    def broken(v, a, names, keep):
        real = jnp.arange(v.latent.shape[1]) < v.length[:, None]
        return jnp.where(real[..., None], v.latent, jnp.nan), None

    ours, _ = in_tiles(broken, tiles)(video, None, ("cond",), None)
    np.testing.assert_allclose(ours, video.latent, atol=1e-5)


def test_the_loop_runs_in_tiles():
    begun = state()
    track = sample.make_track(begun, tables(begun.positions[:1])[0])
    sigmas = np.array([0.9, 0.5, 0.0])
    ends = []
    for tiles in (None, make_tiles(begun, COUNTS, tables)):
        plan = sample.make_plan(sigmas, tiles=tiles)
        ends.append(sample.run(pointwise, sample.SamplerState(video=track), plan, 0, 2).video.latent)
    np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-5)


def test_a_dense_mask_is_refused():
    begun = state()
    dense = stream_of(begun).replace(bias=jnp.zeros((2, 1, 60, 60)))
    with pytest.raises(UserError, match="dense mask"):
        in_tiles(pointwise, make_tiles(begun, COUNTS, tables))(dense, None, ("cond",), None)
