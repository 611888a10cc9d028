"""The published trainer's folder: every kind of file, both layouts, incomplete samples left out."""

import numpy as np
import pytest
from torch_files import Tensor, bfloat16, save

from ltx_jax.data.buckets import Bucket
from ltx_jax.data.config import DataConfig
from ltx_jax.data.encoded.datasets import open_clips
from ltx_jax.data.encoded.precomputed import PrecomputedClips
from ltx_jax.errors import UserError

SCALE, WIDTH = (8, 32, 32), 8 * 16
C, F, H, W, S = 128, 2, 1, 2, 6


def latents(seed, frames=F):
    return np.random.default_rng(seed).normal(size=(C, frames, H, W)).astype(np.float32)


def write(root, name, seed=0, frames=F, audio=True, layout=4):
    value = latents(seed, frames)
    flat = value.reshape(C, -1).T
    save(root / "latents" / f"{name}.pt", {
        "latents": bfloat16(value if layout == 4 else flat), "num_frames": frames, "height": H, "width": W, "fps": 24.0,
    })  # fmt: skip
    text = np.random.default_rng(seed + 50).normal(size=(S, 5)).astype(np.float32)
    mask = Tensor(np.int64([0, 0, 0, 1, 1, 1]))
    save(root / "conditions" / f"{name}.pt", {
        "video_prompt_embeds": bfloat16(text), "audio_prompt_embeds": bfloat16(text[:, :3]),
        "prompt_attention_mask": mask,
    })  # fmt: skip
    if audio:
        sound = np.random.default_rng(seed + 99).normal(size=(8, 11, 16)).astype(np.float32)
        save(root / "audio_latents" / f"{name}.pt", {
            "latents": Tensor(sound), "num_time_steps": 11, "frequency_bins": 16, "duration": 0.44,
        })  # fmt: skip
    return value, text


@pytest.fixture
def root(tmp_path):
    return tmp_path / ".precomputed"


def test_samples_are_read_in_our_layout(tmp_path, root):
    value, text = write(root, "in/a", 1)
    write(root, "b", 2, frames=1, audio=False, layout=2)
    mixture = open_clips(DataConfig(path=str(tmp_path)), SCALE, WIDTH)
    clips = mixture.sets[0]
    long, still = Bucket(32, 64, 9, 24.0), Bucket(32, 64, 1, 24.0)
    assert clips.buckets == {long: 1, still: 1} and len(mixture) == 2
    item = clips.item(long, 0)
    np.testing.assert_allclose(item["video"][1], value[:, 0, 0, 1], atol=0.02, rtol=0.01)
    assert item["video"].shape == (F * H * W, C) and item["audio"].shape == (9, WIDTH) and item["has_audio"]
    np.testing.assert_allclose(item["video_features"], text[3:], atol=0.02, rtol=0.01)
    assert item["audio_features"].shape == (3, 3)
    silent = clips.item(still, 0)
    assert not silent["has_audio"] and not silent["audio"].any() and silent["video"].shape == (H * W, C)
    np.testing.assert_allclose(silent["video"].T, latents(2, 1).reshape(C, -1), atol=0.02, rtol=0.01)


def test_audio_tokens_are_channel_major_and_fitted(root):
    write(root, "a")
    item = PrecomputedClips(root, SCALE, WIDTH).item(Bucket(32, 64, 9, 24.0), 0)
    sound = np.random.default_rng(99).normal(size=(8, 11, 16)).astype(np.float32)
    np.testing.assert_array_equal(item["audio"][4].reshape(8, 16), sound[:, 4])  # 11 tokens stored, 9 needed
    with pytest.raises(UserError, match="tokens of 128"):
        PrecomputedClips(root, SCALE, 32).item(Bucket(32, 64, 9, 24.0), 0)


def test_samples_that_lack_a_kind_are_left_out_and_counted(root, capsys):
    for i in range(3):
        write(root, f"s{i}", i)
    (root / "conditions" / "s1.pt").unlink()
    save(root / "video_masks" / "s0.pt", {"mask": Tensor(np.ones((F, H, W), np.float32))})
    save(root / "reference_latents" / "s0.pt", {"latents": bfloat16(latents(7))})
    clips = PrecomputedClips(root, SCALE, WIDTH)
    assert sum(clips.buckets.values()) == 1 and "2 of 3" in capsys.readouterr().err
    item = clips.item(Bucket(32, 64, 9, 24.0), 0)
    assert item["video_mask"].shape == (F * H * W,) and item["video_reference"].shape == (F * H * W, C)


def test_older_names_and_features_are_understood(root):
    write(root, "latent_0", audio=False)
    (root / "conditions" / "latent_0.pt").unlink()
    save(root / "conditions" / "condition_0.pt", {
        "prompt_embeds": bfloat16(np.ones((S, 4))), "prompt_attention_mask": Tensor(np.array([False] * 4 + [True] * 2)),
    })  # fmt: skip
    item = PrecomputedClips(root, SCALE, WIDTH).item(Bucket(32, 64, 9, 24.0), 0)
    assert item["video_features"].shape == item["audio_features"].shape == (2, 4)


def test_what_is_no_sample_gets_a_sentence(root):
    write(root, "a")
    (root / "conditions" / "a.pt").unlink()
    with pytest.raises(UserError, match="no complete sample"):
        PrecomputedClips(root, SCALE, WIDTH)
    save(root / "conditions" / "a.pt", {"other": 1})
    clips = PrecomputedClips(root, SCALE, WIDTH)
    with pytest.raises(UserError, match="has no 'prompt_attention_mask'"):
        clips.item(Bucket(32, 64, 9, 24.0), 0)
    save(root / "latents" / "a.pt", {"latents": 1})
    with pytest.raises(UserError, match="has no 'num_frames'"):
        PrecomputedClips(root, SCALE, WIDTH)
