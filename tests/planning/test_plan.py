"""Plans: real compiles of the smallest release, their data, and that a run compiles the same programs."""

import dataclasses
import importlib.util
import json
import math

import jax
import pytest
from tiny import save_tiny_model

import ltx_jax
from ltx_jax.data.buckets import Bucket
from ltx_jax.data.config import DataConfig
from ltx_jax.data.preparation.clips import Clip
from ltx_jax.data.preparation.encode import EncoderSpec
from ltx_jax.data.raw.toyworld import ToyWorldConfig, render
from ltx_jax.diffusion.geometry import VideoShape, audio_length, latent_shape
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment, experiment_config
from ltx_jax.models.storage import Storage
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import Program
from ltx_jax.pipelines import programs
from ltx_jax.planning.meshes import candidates, choose_mesh, default_mesh
from ltx_jax.planning.plan import plan
from ltx_jax.planning.report import as_dict, as_table
from ltx_jax.planning.topology import topology
from ltx_jax.planning.workload import Workload, make_programs
from ltx_jax.releases import RELEASES, release
from ltx_jax.tools.train import run_training

TPU = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra `plan`)")
SMALL = VideoShape(9, 32, 32, 8.0)
KEYS = {
    "fits", "memory_per_chip", "hbm_per_chip", "memory_by_kind", "flops_per_step", "roofline_s", "mfu", "collectives",
    "compile_s",
}  # fmt: skip


@TPU
def test_a_training_step_is_planned_with_the_real_compiler(tiny):
    target, workload = topology("v6e:2x2"), Workload("train", SMALL)
    report = plan(tiny, workload, target, choose_mesh(tiny.mesh, target, workload, tiny.model))
    data = json.loads(json.dumps(as_dict(report)))
    assert set(data) >= KEYS and data["fits"] is True and data["mesh"]["fsdp"] == 4
    assert data["memory_per_chip"] == sum(data["memory_by_kind"].values()) < data["hbm_per_chip"]
    assert {"parameters", "optimizer", "activations", "temporaries"} <= set(data["memory_by_kind"])
    assert data["memory_by_kind"]["optimizer"] >= 2 * data["memory_by_kind"]["parameters"]
    assert 0 < data["mfu"] < 1 and 0 < data["roofline_s"] <= data["roofline_not_overlapped_s"]
    assert any(c["kind"] == "all-gather" for c in data["collectives"]) and data["compile_s"] > 0
    assert "collectives" in as_table(report, workload)


class Caught(Exception):
    """Ends a run where it would compile the program that is looked for."""


@pytest.fixture
def caught(monkeypatch):
    """Called with the name of an argument and a function that runs something: the program with that argument."""

    compile_it = Program.compile

    def catch(argument: str, run) -> Program:
        found = []

        def compile_or_catch(self: Program):
            if argument not in self.arguments:
                return compile_it(self)
            found.append(self)
            raise Caught

        monkeypatch.setattr(Program, "compile", compile_or_catch)
        with pytest.raises(Caught):
            run()
        return found[0]

    return catch


def test_the_run_samples_with_the_program_that_is_planned(caught):
    model = ltx_jax.load("toy")
    run = caught("plan", lambda: ltx_jax.generate(model, "a red circle", seed=3, steps=2, cfg=1.0))
    shape = VideoShape(17, 32, 32, 8.0)
    workload = Workload("sample", shape, batch=1, steps=2, dtype="float32")
    experiment = Experiment.from_config(experiment_config("toy"))
    (planned,) = make_programs(experiment, workload, run.mesh).values()
    assert planned.lower().as_text() == run.lower().as_text()


def test_the_run_trains_with_the_program_that_is_planned(tiny, caught, tmp_path):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:4])
    stage = dataclasses.replace(tiny.training.dit, batch_size=4, clips=4)
    data = DataConfig(frames=SMALL.frames, height=SMALL.height, width=SMALL.width, fps=SMALL.fps, size=4)
    experiment = dataclasses.replace(tiny, data=data, training=dataclasses.replace(tiny.training, dit=stage))
    model = save_tiny_model(tmp_path / "model")
    run = caught("batch", lambda: run_training(experiment, mesh, tmp_path / "run", ("dit",), model))
    (planned,) = make_programs(tiny, Workload("train", SMALL), mesh).values()
    assert planned.lower().as_text() == run.lower().as_text()


def test_the_run_encodes_with_the_programs_that_are_planned(tiny, caught, tmp_path):
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    spec = EncoderSpec(str(save_tiny_model(tmp_path)), batch=4)
    encode = lambda: spec.open(mesh)(clips, items)  # anew, so that nothing is compiled yet
    clips = [Clip("", "", "a red circle", Bucket(SMALL.height, SMALL.width, SMALL.frames, SMALL.fps), 0.0)] * 3
    worlds = [render(0, i, ToyWorldConfig(SMALL.height, SMALL.frames)) for i in range(3)]
    items = [{"video": world.video, "audio": world.audio, "has_audio": True} for world in worlds]
    run = {
        "video encoder": caught("video", encode),
        "audio encoder": caught("waveform", encode),
        "text encoder": caught("ids", encode),
    }
    text = lambda programs: {name: program.lower().as_text() for name, program in programs.items()}
    assert text(make_programs(tiny, Workload("encode", SMALL, batch=4), mesh)) == text(run)


@pytest.mark.parametrize("name", RELEASES)
def test_decoding_is_planned_for_every_release(name):
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    experiment = Experiment.from_config(experiment_config(name))
    shape = VideoShape(9, 64, 64, 8.0)
    video, audio = make_programs(experiment, Workload("decode", shape), mesh).values()
    with jax.set_mesh(mesh):
        frames = jax.eval_shape(video.jitted, *video.arguments.values())
    assert frames.shape == (2, 9, 64, 64, 3) and frames.dtype == "uint8"
    assert set(audio.arguments["params"]) == {"audio_decoder", "audio_statistics", "vocoder"}


@pytest.mark.parametrize("name", RELEASES)
def test_encoding_is_planned_for_every_release(name):
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    model, shape = release(name), VideoShape(9, 64, 64, 8.0)
    experiment = Experiment.from_config(experiment_config(name))
    found = make_programs(experiment, Workload("encode", shape), mesh)
    with jax.set_mesh(mesh):
        made = {n: jax.eval_shape(program.jitted, *program.arguments.values()) for n, program in found.items()}
    grid = latent_shape(shape, model.video_vae.scale_factors)
    assert made["video encoder"].shape == (2, math.prod(grid), model.transformer.in_channels)
    assert made["audio encoder"].shape == (2, audio_length(9, 8.0), model.transformer.audio_in_channels)
    assert made["text encoder"][0].shape == (2, model.text_length, model.connectors.video.width)


def test_a_long_clip_is_decoded_tile_by_tile():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    experiment = Experiment.from_config(experiment_config("toy"))
    video, _ = make_programs(experiment, Workload("decode", VideoShape(161, 32, 32, 8.0), batch=2), mesh).values()
    clips, frames, *rest = video.arguments["latents"].shape
    assert (clips, rest[:2]) == (1, [4, 4]) and 20 <= frames <= 21  # 80 of the 161 frames, and the one before them


def test_padded_tokens_keep_their_length(tiny):
    mesh = make_mesh(MeshConfig(data=1, context=8), jax.devices()[:8])
    (planned,) = make_programs(tiny, Workload("sample", VideoShape(9, 24, 40, 8.0)), mesh).values()
    state = planned.arguments["state"]
    tokens = state.video.stream.latent.shape[1]
    assert tokens % 8 == 0 and state.video.stream.length.shape == (1,)
    assert state.video.stream.latent.sharding.shard_shape((1, tokens, 1))[1] == tokens // 8
    assert state.audio.stream.latent.sharding.is_fully_replicated
    assert programs.abstract_state(state, mesh).video.clean.shape == state.video.clean.shape


def test_meshes_follow_the_mode():
    model = release("ltx2_19b")
    long, short = VideoShape(497, 2176, 3840, 50.0), VideoShape(121, 512, 768, 24.0)
    assert default_mesh(16, Workload("train", short), model) == MeshConfig(data=1, fsdp=16)
    assert default_mesh(16, Workload("sample", long), model) == MeshConfig(data=1, context=16)
    assert default_mesh(256, Workload("sample", long), model) == MeshConfig(data=1, context=16, tensor=16)
    assert default_mesh(8, Workload("sample", short), model) == MeshConfig(data=1, tensor=8)
    assert default_mesh(1, Workload("decode", short), model) == MeshConfig(data=1)
    tried = candidates(16, Workload("train", short), model)
    assert len(set(tried)) == len(tried) > 3 and all(c.data * c.fsdp * c.context * c.tensor == 16 for c in tried)


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="no CUDA compiler (extra `plan`)")
def test_weights_on_the_host_are_counted_apart(tiny):
    target = topology("rtx4090")
    reports = {}
    for storage in (Storage(), Storage("int8"), Storage("int8", "host")):
        workload = Workload("sample", SMALL, storage=storage)
        reports[storage] = plan(tiny, workload, target, choose_mesh(tiny.mesh, target, workload, tiny.model))
    whole, small, streamed = reports.values()
    weights = [report.memory_by_kind["parameters"] for report in reports.values()]
    assert whole.parameters > 0 and weights[1] < 0.6 * weights[0]
    assert whole.host == small.host == 0 and streamed.host > 0
    assert streamed.host + weights[2] == weights[1]
    assert json.loads(json.dumps(as_dict(streamed)))["host_memory"] == streamed.host


@pytest.mark.parametrize(("settings", "words"), [
    ({"mode": "train", "storage": Storage("int8")}, "mode=sample"),
    ({"mode": "train", "batch": 0}, "batch"), ({"mode": "sample", "lora": True}, "lora"),
    ({"mode": "sample", "passes": 9}, "passes"), ({"mode": "sample", "steps": 0}, "step"),
])  # fmt: skip
def test_a_bad_workload_is_a_sentence(settings, words):
    with pytest.raises(UserError, match=words):
        Workload(shape=SMALL, **settings)
