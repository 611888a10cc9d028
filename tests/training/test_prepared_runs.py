"""Training on clips that were encoded beforehand: several buckets, stored text, resume, what does not fit."""

import dataclasses
import os
import signal

import jax
import numpy as np
import pytest
from tiny import one_device, save_tiny_model, tiny_release

from ltx_jax.checkpoints.orbax import load_weights
from ltx_jax.checkpoints.streaming import PartReader
from ltx_jax.data.buckets import Bucket, parse_buckets
from ltx_jax.data.config import DataConfig
from ltx_jax.data.encoded.prepared import PreparedClips
from ltx_jax.data.encoded.records import unpack
from ltx_jax.data.preparation.clips import Clip, ClipRules
from ltx_jax.data.preparation.encode import EncoderSpec, model_identity
from ltx_jax.data.preparation.engines import LocalEngine
from ltx_jax.data.preparation.prepare import prepare
from ltx_jax.data.raw.toyworld import ToyWorldConfig, render
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment
from ltx_jax.media.video import write_video
from ltx_jax.parallel.mesh import MeshConfig
from ltx_jax.tools.train import run_training
from ltx_jax.training import loop
from ltx_jax.training.config import DiTStageConfig, TrainingConfig
from ltx_jax.training.lora import LoRAConfig
from ltx_jax.training.metrics import read_metrics
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig

STAGE = DiTStageConfig(
    steps=4, batch_size=2, checkpoint_every=2, log_every=1, sample_every=0, ema_decay=0.0, train_text=False,
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig("constant")), lora=LoRAConfig(rank=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of random weights: its folder."""
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def prepared(model, tmp_path_factory):
    """Square and wide clips of the toy world, prepared with that model."""
    root = tmp_path_factory.mktemp("data")
    for i in range(5):
        video = render(0, i, ToyWorldConfig(16, 5)).video
        video = np.concatenate([video, video], axis=2) if i > 2 else video
        write_video(root / "in" / f"{i}.mp4", video, 8)
        (root / "in" / f"{i}.txt").write_text("a red circle")
    rules = ClipRules(parse_buckets(["16x16x5", "32x16x5"], 8.0), 16000)
    spec = EncoderSpec(str(model), batch=2)
    engine = LocalEngine(spec.open(one_device()), 0)
    prepare(str(root / "in"), root / "out", rules, engine, model_identity(spec.bundle()), batch=2, progress=False)
    return root / "out"


@pytest.mark.slow
def test_encoders_spread_over_a_mesh_say_the_same(model):
    spread = EncoderSpec(str(model), batch=3, mesh=MeshConfig(2, 2, 1, 2)).open()
    for part in ("text", "connectors"):
        leaves = jax.tree.leaves(spread._placed.weights((part,))[part])
        here = sum(x.addressable_shards[0].data.size for x in leaves)
        assert here < 0.6 * sum(x.size for x in leaves), part
    clips = [Clip("a.mp4", "a.mp4", "a red circle", parse_buckets(["16x16x5"], 8.0)[0], 0.0)] * 3
    worlds = [render(0, i, ToyWorldConfig(16, 5)) for i in range(3)]
    items = [{"video": world.video, "audio": world.audio, "has_audio": True} for world in worlds]
    ours, theirs = (e(clips, items) for e in (spread, EncoderSpec(str(model), batch=3).open(one_device())))
    for a, b in zip(ours, theirs, strict=True):
        for name, expected in unpack(b)[0].items():
            np.testing.assert_allclose(unpack(a)[0][name].astype(float), expected.astype(float), atol=2e-2)


@pytest.mark.slow
def test_large_pictures_are_encoded_in_tiles(model):
    """Tiles of 32 pixels overlap by one cell of 8, which is the mean of both."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (5, 32, 56, 3), np.uint8)

    def latents(video, tile=0):
        bucket = Bucket(*video.shape[1:3], 5, 8.0)
        item = {"video": video, "audio": np.zeros((2, 10000), np.float32), "has_audio": True}
        encoder = EncoderSpec(str(model), batch=1, stored="float32", tile=tile).open(one_device())
        tokens = unpack(encoder([Clip("", "", "", bucket, 0.0)], [item])[0])[0]["video"]
        return tokens.reshape(3, 4, video.shape[2] // 8, -1)  # (F, H, W, C)

    left, right, tiled = latents(video[:, :, :32]), latents(video[:, :, 24:]), latents(video, 32)
    expected = np.concatenate([left[:, :, :3], (left[:, :, 3:] + right[:, :, :1]) / 2, right[:, :, 1:]], axis=2)
    np.testing.assert_allclose(tiled, expected, atol=1e-5)
    assert np.abs(tiled - latents(video)).max() > 1e-2 and np.array_equal(latents(video, 64), latents(video))
    with pytest.raises(UserError, match="do not fit latent cells"):
        EncoderSpec(str(model), tile=16).open(one_device())


def run(prepared, model, workdir, **changes):
    experiment = Experiment(
        tiny_release(), data=DataConfig(path=str(prepared), frames=5, height=16, width=16),
        training=TrainingConfig(dit=dataclasses.replace(STAGE, **changes)),
    )  # fmt: skip
    run_training(experiment, one_device(), workdir, ("dit",), model)
    return workdir


def losses(workdir):
    return [row["loss"] for row in read_metrics(workdir / "dit" / "metrics.jsonl")]


def test_stored_clips_are_what_the_model_makes_of_the_files(prepared, model):
    clips = PreparedClips(prepared)
    assert sorted((b.name, n) for b, n in clips.buckets.items()) == [("16x16x5@8", 3), ("32x16x5@8", 2)]
    bucket = min(clips.buckets)
    item = clips.item(bucket, 0)
    encoder = EncoderSpec(str(model)).open(one_device())
    assert item["caption"] == "a red circle" and not item["has_audio"]
    for name, features in encoder.text(["a red circle", "a blue square"])[0].items():
        np.testing.assert_allclose(item[name], features.astype(np.float32), atol=1e-2)


def test_only_the_parts_that_a_run_needs_are_read(prepared, model, tmp_path, monkeypatch):
    read, real = [], PartReader.__call__
    monkeypatch.setattr(PartReader, "__call__", lambda self: read.append(self.part) or real(self))
    run(prepared, model, tmp_path, steps=1)
    assert sorted(read) == ["audio_statistics", "connectors", "transformer", "video_statistics"]


@pytest.mark.slow
def test_a_lora_trains_on_all_buckets_and_resumes_bit_for_bit(prepared, model, tmp_path):
    whole = run(prepared, model, tmp_path / "whole")
    with pytest.raises(SystemExit):
        stop_at(2, lambda: run(prepared, model, tmp_path / "parts"))
    run(prepared, model, tmp_path / "parts")
    assert losses(whole) == losses(tmp_path / "parts") and len(losses(whole)) == 4
    weights = [(folder / "lora.safetensors").read_bytes() for folder in (whole, tmp_path / "parts")]
    assert weights[0] == weights[1]


def stop_at(step, function):
    """Run, with a SIGTERM at `step`."""
    real = loop._Run._advance

    def advance(self, number, metrics):
        real(self, number, metrics)
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Run, "_advance", advance)
        function()


@pytest.mark.slow
def test_the_whole_transformer_and_its_text_encoder_can_be_trained_too(prepared, model, tmp_path):
    for name, changes in (("frozen", {"train_text": False}), ("text", {"train_text": True})):
        workdir = run(prepared, model, tmp_path / name, lora=None, steps=1, **changes)
        assert np.isfinite(losses(workdir)).all()
        trained = load_weights(workdir / "dit" / "weights", None)
        assert ("text" in trained) == (name == "text")


def test_what_does_not_fit_gets_a_sentence(prepared, model, tmp_path):
    with pytest.raises(UserError, match="--init_from"):
        run(prepared, None, tmp_path / "a")
    release = dataclasses.replace(tiny_release(), text_length=24)
    experiment = Experiment(release, data=DataConfig(path=str(prepared)), training=TrainingConfig(dit=STAGE))
    with pytest.raises(UserError):
        run_training(experiment, one_device(), tmp_path / "b", ("dit",), model)
    with pytest.raises(UserError, match="--stage=dit"):
        run_all = Experiment(tiny_release(), data=DataConfig(path=str(prepared), frames=5, height=16, width=16))
        run_training(run_all, one_device(), tmp_path / "c", ("video_vae", "audio_vae", "dit"))
