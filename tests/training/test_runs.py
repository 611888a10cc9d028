"""Whole runs of the transformer's stage at the smallest scale: every mode at once, resume, adapters, frozen text."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from tiny import save_tiny_model, tiny_release

from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.checkpoints.lora import apply_loras, load_lora
from ltx_jax.checkpoints.orbax import load_weights
from ltx_jax.data.config import DataConfig
from ltx_jax.data.encoded.prepared import PreparedClips
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.tools.train import run_training
from ltx_jax.training import run as runs
from ltx_jax.training.config import DiTStageConfig, ReferenceConfig, TrainingConfig
from ltx_jax.training.lora import LoRAConfig
from ltx_jax.training.metrics import read_metrics
from ltx_jax.training.modes import MODES
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig

DATA = DataConfig(frames=5, height=16, width=16, size=12)
STAGE = DiTStageConfig(
    steps=4, batch_size=8, clips=12, checkpoint_every=2, log_every=1, sample_every=0, ema_decay=0.0,
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig("constant")),
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of random weights to start from."""
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def train(stage, workdir, model, stages=("dit",), sizes=(1, 1, 1, 1), data=DATA):
    experiment = Experiment(tiny_release(), data=data, training=TrainingConfig(dit=stage))
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    run_training(experiment, mesh, workdir, stages, model)


def test_a_batch_that_the_mesh_does_not_divide_is_noted(tmp_path, capsys):
    stage = dataclasses.replace(STAGE, batch_size=12, accumulate=2)
    for sizes, noted in (((2, 2, 2, 1), True), ((1, 2, 2, 2), False)):
        with pytest.raises(UserError, match="needs the trained video_vae"):
            train(stage, tmp_path / str(noted), None, sizes=sizes)
        assert ("dit trains 6 samples at a time, which its 4 batch shards" in capsys.readouterr().err) == noted


def cut_in_half(whole, folder):
    """A copy of a finished run of four steps as it was after two."""
    shutil.copytree(whole, folder)
    for gone in ("checkpoints/4", "weights"):
        shutil.rmtree(folder / "dit" / gone)
    (folder / "dit" / "finished.json").unlink()
    return folder


def weights(workdir):
    return jax.tree.leaves(jax.device_get(load_weights(workdir / "dit" / "weights", None)))


EVERY_MODE = dataclasses.replace(
    STAGE, modes=tuple(MODES), reference=ReferenceConfig(downscale=2, temporal=2),
    optimizer=OptimizerConfig(learning_rate=1e-4, schedule=ScheduleConfig("constant")),
)  # fmt: skip
ADAPTED = dataclasses.replace(EVERY_MODE, lora=LoRAConfig(rank=2, alpha=4, dropout=0.2))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [EVERY_MODE, ADAPTED], ids=["whole model", "adapters"])
def test_a_mixture_of_all_modes_resumes_bit_for_bit_and_onto_another_mesh(tmp_path, model, stage):
    """One program for every mode, a smaller reference included; half a run goes on as the whole one did."""
    train(stage, tmp_path / "whole", model)
    halves = {sizes: cut_in_half(tmp_path / "whole", tmp_path / str(sizes)) for sizes in ((1, 1, 1, 1), (1, 2, 2, 2))}
    for sizes, half in halves.items():
        train(stage, half, model, sizes=sizes)
    expected, (same, other) = weights(tmp_path / "whole"), map(weights, halves.values())
    assert all(np.array_equal(a, b) for a, b in zip(expected, same, strict=True))
    assert max(np.max(np.abs(a - b)) for a, b in zip(expected, other, strict=True)) <= 1e-6
    metrics = read_metrics(halves[1, 1, 1, 1] / "dit" / "metrics.jsonl")
    assert len(metrics) == 4 and all(np.isfinite(line["loss"]) for line in metrics)
    assert {name for line in metrics for name in line} > {"loss_video", "loss_audio"}


@pytest.mark.slow
def test_clips_of_half_size_and_their_stills_are_trained_on_too(tmp_path, model):
    """Both sizes are encoded with a still of each clip, and every size has a program of its own."""
    stage = dataclasses.replace(STAGE, modes=("text_to_video", "keyframes"), keyframes=1, shrink=(1, 2), steps=4)
    data = dataclasses.replace(DATA, height=32, width=32)
    train(stage, tmp_path, model, data=data)
    clips = PreparedClips(tmp_path / "clips")
    assert {bucket.name: count for bucket, count in clips.buckets.items()} == {"32x32x5@8": 12, "16x16x5@8": 12}
    for bucket in clips.buckets:
        item = clips.item(bucket, 3)
        assert 0 <= item["keyframes"][0] < 5 and len(item["video_keyframes"]) == (bucket.height // 8) ** 2
    rows = read_metrics(tmp_path / "dit" / "metrics.jsonl")
    assert len(rows) == 4 and all(np.isfinite(row["loss"]) for row in rows)
    with pytest.raises(UserError, match="cannot be 3 times smaller"):
        train(dataclasses.replace(stage, shrink=(1, 3)), tmp_path / "third", model, data=data)


def test_a_lora_changes_only_its_own_parameters(tmp_path, model, monkeypatch):
    stages, real = [], runs.run_stage
    monkeypatch.setattr(runs, "run_stage", lambda stage, folder: stages.append(stage) or real(stage, folder))
    files = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    lora = LoRAConfig(rank=2, alpha=4, target_modules=("attn1.to_q", "transformer_blocks.1.audio_ff.net.2"))
    train(dataclasses.replace(STAGE, lora=lora), tmp_path, model, ("video_vae", "audio_vae", "dit"))
    assert not (tmp_path / "model").exists() and not (tmp_path / "video_vae").exists()
    base, frozen = load_bundle(model), stages[0].frozen["params"]
    assert set(frozen) == {"transformer", "connectors"}
    for part, tree in frozen.items():  # what the steps read is still the model, to the bit
        assert all(map(np.array_equal, jax.tree.leaves(tree), jax.tree.leaves(base.params[part])))
    assert files == {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    path, release = tmp_path / "lora.safetensors", tiny_release()
    adapter = load_lora(path)
    assert release.transformer.num_layers == 2
    everywhere = {f"transformer_blocks.{i}.attn1.to_q" for i in (0, 1)}
    assert set(adapter.pairs) == everywhere | {"transformer_blocks.1.audio_ff.net.2"}
    assert all(np.any(b) for _, b in adapter.pairs.values())
    merged = apply_loras(base, [(str(path), 1.0)])
    changed = [
        jax.tree_util.keystr(key)
        for (key, a), b in zip(
            jax.tree_util.tree_leaves_with_path(base.params["transformer"]),
            jax.tree.leaves(merged.params["transformer"]),
            strict=True,
        )
        if not np.array_equal(a, b)
    ]
    assert changed == ["['blocks']['audio']['ff']['out']['kernel']", "['blocks']['video']['attn1']['to_q']['kernel']"]
    kernels = [m.params["transformer"]["blocks"]["audio"]["ff"]["out"]["kernel"] for m in (base, merged)]
    assert np.array_equal(kernels[0][0], kernels[1][0]) and not np.array_equal(kernels[0][1], kernels[1][1])
    trained = load_weights(tmp_path / "dit" / "weights", None)
    single = trained["lora"]["blocks"]["audio"]["ff"]["out"]
    assert all(not single[side][0].any() and single[side][1].any() for side in ("a", "b"))
    assert list(trained) == ["lora"] and sum(x.size for x in jax.tree.leaves(trained)) < 2000


def test_a_lora_run_notices_other_base_weights(tmp_path, model):
    stage = dataclasses.replace(STAGE, steps=2, lora=LoRAConfig(rank=2, target_modules=("attn1.to_q",)))
    train(stage, tmp_path / "run", model)
    (tmp_path / "run" / "dit" / "finished.json").unlink()
    with pytest.raises(UserError, match="other frozen weights"):
        train(stage, tmp_path / "run", save_tiny_model(tmp_path / "other", seed=1))
    train(stage, tmp_path / "run", model)
    with pytest.raises(UserError, match="is a LoRA run"):
        train(stage, tmp_path / "next", tmp_path / "run")
    init = dataclasses.replace(stage.lora, init=str(tmp_path / "run" / "lora.safetensors"))
    train(dataclasses.replace(stage, steps=1, lora=init), tmp_path / "next", model)
    first, second = (load_lora(tmp_path / name / "lora.safetensors").pairs for name in ("run", "next"))
    for module, (a, _) in first.items():
        np.testing.assert_allclose(second[module][0], a, atol=0.05)  # one step from where the other run ended


@pytest.mark.slow
def test_frozen_text_stays_and_the_model_is_whole(tmp_path, model):
    train(dataclasses.replace(STAGE, train_text=False, mode="audio_to_video"), tmp_path, model)
    before, after = load_bundle(model), load_bundle(tmp_path / "model")
    equal = lambda part: all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(before.params[part]), jax.tree.leaves(after.params[part]), strict=True)
    )
    assert equal("text") and equal("connectors") and not equal("transformer")


def test_frozen_parts_must_come_from_somewhere(tmp_path):
    for change, words in [({"lora": LoRAConfig()}, "LoRA adapts"), ({"train_text": False}, "Frozen text")]:
        with pytest.raises(UserError, match=words):
            train(dataclasses.replace(STAGE, **change), tmp_path / words[:4], None)
