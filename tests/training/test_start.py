"""How a run begins: alone in its workdir, from given networks, of the right model, with its record."""

import jax
import numpy as np
import pytest
from tiny import one_device, save_tiny_model, tiny_release

from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.checkpoints.orbax import load_weights
from ltx_jax.data.config import DataConfig
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment, run_training
from ltx_jax.lock import working_in
from ltx_jax.training import stages as runs
from ltx_jax.training.config import AudioVAEStageConfig, DiTStageConfig, TrainingConfig, VideoVAEStageConfig
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig

STEPS = {
    "steps": 1, "batch_size": 2, "log_every": 1, "sample_every": 0, "ema_decay": 0.0,
    "optimizer": OptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig("constant")),
}  # fmt: skip
TRAINING = TrainingConfig(
    video_vae=VideoVAEStageConfig(**STEPS, statistics_batches=1),
    audio_vae=AudioVAEStageConfig(**STEPS, statistics_batches=1, segment=16),
    dit=DiTStageConfig(**STEPS, clips=2),
)
EXPERIMENT = Experiment(tiny_release(), data=DataConfig(frames=5, height=16, width=16, size=2), training=TRAINING)
ALL = ("video_vae", "audio_vae", "dit")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def test_autoencoders_go_on_from_the_networks_that_are_given(model, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "run_stage", lambda stage, folder: stage.initialize())  # no step, which compiles longest
    run_training(EXPERIMENT, one_device(), tmp_path, ("video_vae", "audio_vae"), model)
    given = load_bundle(model).params
    for name in ("video", "audio"):
        found = load_weights(tmp_path / f"{name}_vae" / "weights", None)
        measured = found.pop(f"{name}_statistics")
        assert not np.allclose(measured["mean"], given[f"{name}_statistics"]["mean"], atol=1e-3)
        for part, tree in found.items():
            assert all(map(np.array_equal, jax.tree.leaves(tree), jax.tree.leaves(given[part]))), part


def test_a_second_run_in_a_workdir_is_refused_and_touches_nothing(model, tmp_path):
    unfinished = tmp_path / "dit" / "checkpoints" / "5.orbax-checkpoint-tmp"  # what the first is writing
    unfinished.mkdir(parents=True)
    with working_in(tmp_path):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match="is in use: process"):
            run_training(EXPERIMENT, one_device(), tmp_path, ALL, model)
        assert sorted(tmp_path.rglob("*")) == before
