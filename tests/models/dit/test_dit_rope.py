import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.kernels.prologue import rotate
from ltx_jax.models.dit.rope import frequencies, gather_tables, rotary, rotary_tables


def test_frequencies_span_the_range():
    table = frequencies(4096, 3)
    assert table.shape == (682,) and table.dtype == np.float32
    assert table[0] == np.float32(np.pi / 2) and table[-1] == np.float32(10000 * np.pi / 2)
    assert frequencies(6, 3) == np.float32(np.pi / 2)
    with pytest.raises(UserError, match="too small"):
        frequencies(4, 3)


def bounds(rng, *shape):
    start = rng.uniform(0, 20, shape).astype(np.float32)
    return np.stack([start, start + np.float32(0.25)], axis=-1)


def test_gathered_tables_equal_the_definition_per_token():
    rng = np.random.default_rng(0)
    positions, heads, width, max_pos = bounds(rng, 2, 3, 5), 4, 64, (20.0, 2048.0, 2048.0)
    cos, sin = gather_tables(rotary(positions, width, max_pos), heads, width // heads)
    middle = (positions[..., 0] + positions[..., 1]) / np.float32(2)
    u = np.float32(2) * (middle / np.array(max_pos, np.float32)[:, None]) - np.float32(1)  # (B, 3, T)
    angle = frequencies(width, 3)[:, None] * u.transpose(0, 2, 1)[:, :, None]  # (B, T, F, 3)
    angle = angle.reshape(2, 5, -1).astype(np.float64)
    front = width // 2 - angle.shape[-1]
    np.testing.assert_allclose(cos.reshape(2, 5, -1)[..., front:], np.cos(angle), atol=1e-7)
    np.testing.assert_allclose(sin.reshape(2, 5, -1)[..., front:], np.sin(angle), atol=1e-7)
    assert (cos.reshape(2, 5, -1)[..., :front] == 1).all() and (sin.reshape(2, 5, -1)[..., :front] == 0).all()


def test_equal_samples_share_one_index():
    positions = bounds(np.random.default_rng(1), 1, 1, 6)
    assert rotary(np.repeat(positions, 3, axis=0), 32, (20.0,)).index.shape == (1, 6, 1)
    other = np.concatenate([positions, positions + 1])
    assert rotary(other, 32, (20.0,)).index.shape == (2, 6, 1)


@pytest.mark.parametrize("rope_type", ["split", "interleaved"])
def test_scores_depend_on_distances_only(rope_type):
    """Moving all positions along turns queries and keys alike."""
    rng = np.random.default_rng(2)
    q, k = (jnp.asarray(rng.standard_normal((1, 6, 2, 8)), jnp.float32) for _ in range(2))
    start = np.arange(6, dtype=np.float32)[None, None]
    scores = []
    for shift in (0, 3):
        tables = gather_tables(rotary(start + shift, 16, (64.0,), 10.0), 2, 8)
        scores.append(jnp.einsum("btnk,bsnk->bnts", rotate(q, tables, rope_type), rotate(k, tables, rope_type)))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
    turned = rotate(q, tables, rope_type)
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-5)


def test_cross_tables_see_time_only(tiny):
    rng = np.random.default_rng(3)
    video, audio = bounds(rng, 1, 3, 4), bounds(rng, 1, 1, 4)
    audio[:] = video[:, :1]
    tables = rotary_tables(tiny.config, video, audio)
    for name in ("video_cross", "audio_cross"):
        assert len(tables[name].cos) == 1
    for a, b in zip(tables["video_cross"].cos, tables["audio_cross"].cos, strict=True):
        np.testing.assert_array_equal(a, b)
    alone = rotary_tables(tiny.config, video, None)
    assert alone["video"] is not None and [alone[k] for k in ("audio", "video_cross", "audio_cross")] == [None] * 3


def test_axes_must_fit():
    with pytest.raises(UserError, match="3 axes"):
        rotary(np.zeros((1, 1, 4, 2)), 64, (20.0, 2048.0, 2048.0))
