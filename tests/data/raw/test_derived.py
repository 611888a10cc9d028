"""What is made from clips for training: references, latents in tiles."""

import numpy as np
import pytest

from ltx_jax.data.config import DataConfig
from ltx_jax.data.preparation.tiled import encode_in_tiles, ramp, tile_bounds
from ltx_jax.data.raw.references import ReferenceSource, outlines
from ltx_jax.data.raw.source import ToyWorldSource
from ltx_jax.errors import UserError


def test_references_are_outlines_of_the_same_clip():
    source = ToyWorldSource(DataConfig(frames=5, height=16, width=16, size=4))
    small = ReferenceSource(source, downscale=2, temporal=2)
    item, reference = source.item(1, 0), small.item(1, 0)
    assert reference["video"].shape == (3, 8, 8, 3) and reference["video"].dtype == np.uint8
    assert reference["caption"] == item["caption"] and reference["audio"].shape == item["audio"].shape
    assert reference["audio"].std() < item["audio"].std() and small.fingerprint != source.fingerprint
    flat = np.full((1, 4, 4, 3), 90, np.uint8)
    assert not outlines(flat).any()
    flat[:, :, 2:] = 200
    assert outlines(flat)[0, :, 1, 0].all() and not outlines(flat)[0, :, 0].any()


def test_tiles_of_a_constant_encoder_blend_to_the_constant():
    encode = lambda v: np.ones((1, 2, v.shape[2] // 4, v.shape[3] // 4, 1))
    latents = encode_in_tiles(encode, np.zeros((1, 3, 40, 24, 3)), (2, 4, 4), 16, 8)
    np.testing.assert_allclose(latents, np.ones((1, 2, 10, 6, 1)), rtol=1e-6)
    assert tile_bounds(40, 16, 8, 4) == [(0, 16), (8, 24), (16, 32), (24, 40)]
    assert tile_bounds(28, 16, 8, 4)[-1] == (16, 28)
    np.testing.assert_allclose(ramp(4, 2, True, False), [1 / 3, 2 / 3, 1, 1])
    with pytest.raises(UserError, match="do not fit latent cells"):
        encode_in_tiles(np.asarray, np.zeros((1, 1, 64, 64, 3)), (2, 4, 4), 18, 8)
