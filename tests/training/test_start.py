"""How a run begins: alone in its workdir, from given networks, of the right model, with its record."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny import one_device, save_tiny_model, tiny_release

from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.checkpoints.orbax import load_weights
from ltx_jax.config import to_mapping
from ltx_jax.data.config import DataConfig
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment
from ltx_jax.lock import working_in
from ltx_jax.models.text.tokenizer import Tokenizer, train_toy_tokenizer
from ltx_jax.tools.train import run_training
from ltx_jax.training import run as runs
from ltx_jax.training.config import (
    AudioVAEStageConfig,
    DiTStageConfig,
    PreviewConfig,
    TrainingConfig,
    VideoVAEStageConfig,
)
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig
from ltx_jax.training.record import RunRecord, record_run
from ltx_jax.training.setting import Setting
from ltx_jax.training.weights import Weights

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


def test_the_tokenizer_is_that_of_the_given_model(tmp_path, monkeypatch):
    """Captions, previews and the saved model have it, also when the run goes on without the model."""
    own = Tokenizer(train_toy_tokenizer(["zebras yawn", "zinc zeppelins"]).encode(), tiny_release().text_length)
    model, seen = save_tiny_model(tmp_path / "given", tokenizer=own), []
    monkeypatch.setattr(runs, "run_stage", lambda stage, folder: seen.append(stage) or stage.initialize())
    previews = lambda *given: seen.append(given) or (lambda *_: None)
    asked = dataclasses.replace(EXPERIMENT.training, preview=PreviewConfig(("zebras",)))
    experiment = dataclasses.replace(EXPERIMENT, training=asked)
    run_training(experiment, one_device(), tmp_path / "run", ("dit",), model, previews=previews)
    (_, tokenizer, _, prompts), stage = seen
    assert tokenizer.to_json() == own.to_json() and prompts == ("zebras",)
    ids, mask = own(["", "a red circle"])
    np.testing.assert_array_equal(stage.frozen["empty"]["text_ids"], ids[0])
    assert len(np.unique(stage.batches().at(0)["text_ids"])) > len(np.unique(ids[1][mask[1] > 0])) - 1
    for path in ("run/dit/tokenizer.json", "run/model/text_encoder/tokenizer.json"):
        assert (tmp_path / path).read_text() == own.to_json()
    setting = Setting(EXPERIMENT.model, TRAINING, EXPERIMENT.data, one_device(), tmp_path / "run")
    assert Weights(setting, None).tokenizer().to_json() == own.to_json()
    assert (
        Weights(dataclasses.replace(setting, workdir=tmp_path), tmp_path / "run").tokenizer().to_json() == own.to_json()
    )


@pytest.mark.parametrize("stages", [("dit",), ALL], ids=len)
def test_weights_of_another_architecture_are_refused_at_once(model, tmp_path, monkeypatch, stages):
    wider = dataclasses.replace(tiny_release().transformer, num_layers=3)
    other = dataclasses.replace(EXPERIMENT, model=dataclasses.replace(tiny_release(), transformer=wider))
    monkeypatch.setattr(jax.stages.Lowered, "compile", None)  # nothing is compiled
    with pytest.raises(UserError, match=r"transformer\.num_layers \(3 against 2\).*another architecture"):
        run_training(other, one_device(), tmp_path / "new", stages, model)
    identity = {"model": {"video_vae": to_mapping(tiny_release().video_vae) | {"latent_channels": 5}}}
    (tmp_path / "run" / "video_vae").mkdir(parents=True)
    (tmp_path / "run" / "video_vae" / "finished.json").write_text(json.dumps({"identity": identity}))
    with pytest.raises(UserError, match=r"latent_channels is not that of .*another architecture"):
        run_training(EXPERIMENT, one_device(), tmp_path / "next", ("video_vae",), tmp_path / "run")
    assert not list(tmp_path.glob("n*/*/*"))


def test_what_fits_the_weights_but_differs_is_noted(model, tmp_path, capsys):
    theta = dataclasses.replace(tiny_release().transformer, timestep_scale_multiplier=500)
    release = dataclasses.replace(tiny_release(), transformer=theta)
    setting = Setting(release, TRAINING, EXPERIMENT.data, one_device(), tmp_path)
    assert Weights(setting, model).start("dit") is not None
    assert "timestep_scale_multiplier (500 against 1000.0) is not that of" in capsys.readouterr().err


def test_a_run_is_on_record_and_says_what_has_changed(tmp_path, capsys, monkeypatch):
    mesh, run = one_device(), RunRecord(to_mapping(EXPERIMENT), ("train.py", "--stage=dit"))
    record_run(tmp_path, mesh, 7, run)
    (first,) = json.loads((tmp_path / "run.json").read_text())["runs"]
    assert first["command"] == ["train.py", "--stage=dit"] and first["seed"] == 7
    assert (
        first["config"]["training"]["dit"]["clips"] == 2 and first["environment"]["versions"]["jax"] == jax.__version__
    )
    assert set(first["code"]) in ({"commit", "dirty"}, set()) and first["environment"]["device"]["count"] == 1
    record_run(tmp_path, mesh, 7, run)
    assert "note" not in capsys.readouterr().err
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=")
    changed = dataclasses.replace(EXPERIMENT, data=dataclasses.replace(EXPERIMENT.data, workers=3))
    record_run(tmp_path, mesh, 7, RunRecord(to_mapping(changed)))
    assert "environment.xla_flags, config.data.workers differ" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "run.json").read_text())["runs"]) == 3


def test_a_raw_run_with_frozen_text_prepares_features_and_references(model, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "run_stage", lambda stage, folder: stages.append(stage) or stage.initialize())
    stages, mode = [], dataclasses.replace(TRAINING.dit, train_text=False, modes=("video_reference", "text_to_video"))
    experiment = dataclasses.replace(EXPERIMENT, training=TrainingConfig(dit=mode))
    run_training(experiment, one_device(), tmp_path, ("dit",), model)
    batch, wanted = stages[0].batches().at(0), stages[0].program.arguments["batch"]
    assert {"video_reference", "video_features", "text_mask"} <= set(wanted)
    for name, abstract in wanted.items():
        assert batch[name].shape == abstract.shape and batch[name].dtype.kind == np.dtype(abstract.dtype).kind, name
