"""The latent upsampler's stage: pairs of one clip at two sizes, a run that begins with a model, the exported part."""

import dataclasses

import numpy as np
import pytest
from tiny import one_device, save_tiny_model, tiny_release

from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.data.config import DataConfig
from ltx_jax.data.raw.references import shrink
from ltx_jax.data.raw.source import open_source
from ltx_jax.errors import UserError
from ltx_jax.models.upsampler import UpsamplerConfig
from ltx_jax.training.config import TrainingConfig, UpsamplerStageConfig
from ltx_jax.training.dit.clips import shrunk
from ltx_jax.training.metrics import read_metrics
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig
from ltx_jax.training.run import train
from ltx_jax.training.upsampler import Pairs, collate_pairs

DATA = DataConfig(frames=5, height=32, width=32, size=8, world="exact")
UPSAMPLER = UpsamplerConfig(in_channels=8, mid_channels=32, num_blocks_per_stage=0)
STAGE = UpsamplerStageConfig(
    steps=30, batch_size=4, log_every=1, sample_every=0, ema_decay=0.0,
    optimizer=OptimizerConfig(learning_rate=1e-2, schedule=ScheduleConfig("constant")),
)  # fmt: skip


def run(folder, upsampler, stages=("upsampler",), data=DATA, init_from=None):
    release = dataclasses.replace(tiny_release(), spatial_upsampler=upsampler)
    train(release, TrainingConfig(upsampler=STAGE), data, one_device(), folder, stages, init_from=init_from)


def test_pairs_are_one_clip_at_two_sizes():
    pairs = Pairs(open_source(DATA), open_source(shrunk(DATA, 2)))
    batch = collate_pairs([pairs.item(n, 0) for n in range(3)])
    assert batch["video"].shape == (3, 5, 32, 32, 3) and batch["small"].shape == (3, 5, 16, 16, 3)
    for full, half in zip(batch["video"], batch["small"], strict=True):
        assert np.abs(shrink(full, 2).astype(int) - half).mean() < 1  # of 255; another clip is tens away


def test_a_model_without_an_upsampler_gets_one(tmp_path):
    """The encoder of the given model stays; the loss falls; the model that is written has the part and its config."""
    run(tmp_path / "run", UPSAMPLER, init_from=save_tiny_model(tmp_path / "model"))
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "upsampler" / "metrics.jsonl")]
    assert len(losses) == 30 and np.mean(losses[-5:]) < 0.8 * losses[0]
    made = load_bundle(tmp_path / "run" / "model")
    assert made.release.spatial_upsampler == UPSAMPLER and "spatial_upsampler" in made.params
    kept, given = (b.params["video_encoder"]["conv_in"] for b in (made, load_bundle(tmp_path / "model")))
    assert all(np.array_equal(kept[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ("upsampler", "data", "words"),
    [
        (None, DATA, "no latent upsampler"),
        (dataclasses.replace(UPSAMPLER, spatial_upsample=False, temporal_upsample=True), DATA, "doubles rows"),
        (UPSAMPLER, dataclasses.replace(DATA, height=16, width=16), "16 x 16 pixels"),
        (UPSAMPLER, DATA, "needs the trained video_vae"),
    ],
    ids=("no part", "another kind", "too small a world", "no encoder"),
)
def test_what_stands_against_it_is_said_before_anything_is_computed(tmp_path, upsampler, data, words):
    with pytest.raises(UserError, match=words):
        run(tmp_path, upsampler, data=data)
