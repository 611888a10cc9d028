"""A run that was stopped, killed or resumed is the run that never stopped, bit for bit."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import batch_like, place, replicated_like
from ltx_jax.training.config import StageConfig
from ltx_jax.training.guard import GuardConfig
from ltx_jax.training.loop import Stage, run_stage
from ltx_jax.training.metrics import read_metrics
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer
from ltx_jax.training.record import check_config
from ltx_jax.training.state import initial_state
from ltx_jax.training.step import make_train_program, sample_keys

SCHEDULE = ScheduleConfig(type="warmup_cosine", warmup_steps=2)
CONFIG = StageConfig(
    steps=6, batch_size=4, optimizer=OptimizerConfig(learning_rate=0.05, schedule=SCHEDULE), ema_decay=0.9,
    checkpoint_every=3, keep=2, log_every=2, sample_every=0, guard=GuardConfig(max_skipped=5),
)  # fmt: skip


class Numbers:
    """Batches that follow from the position alone; `poison`: positions of batches that are not finite."""

    def __init__(self, poison=(), pause=0.0):
        self.position, self.poison, self.pause = 0, poison, pause

    def __next__(self):
        time.sleep(self.pause)
        x = np.random.default_rng(self.position).normal(size=(4, 8)).astype(np.float32)
        if self.position in self.poison:
            x[0, 0] = np.inf
        self.position += 1
        return {"x": x, "caption": ["not for the device"] * 4}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]

    def close(self):
        pass


def objective(params, frozen, batch, step):
    keys = sample_keys(7, "test", step, batch["x"].shape[0])
    noise = jax.vmap(lambda key: jax.random.normal(key, (8,)))(keys)
    error = batch["x"] @ params["net"]["kernel"] - frozen["target"] * noise
    return jnp.mean(error**2), {"size": jnp.sum(params["net"]["kernel"] ** 2)}


def make_stage(config=CONFIG, poison=(), pause=0.0, preview=None, sizes=(1, 1, 1, 1)):
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    shapes = {"net": {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32)}}
    axes = {"net": {"kernel": ("embed", "mlp")}}
    frozen = {"target": np.float32(0.5)}
    batch = batch_like({"x": jax.ShapeDtypeStruct((4, 8), jnp.float32)}, mesh)
    abstract = replicated_like(frozen, mesh)
    program = make_train_program(objective, config, shapes, axes, abstract, batch, mesh)
    params = {"net": {"kernel": np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)}}
    state = lambda: jax.device_get(initial_state(params, make_optimizer(config.optimizer, axes), config))
    return Stage(
        name="dit", config=config, program=program, frozen=place(frozen, abstract), preview=preview,
        initialize=lambda: place(state(), program.arguments["state"]),
        batches=lambda: Numbers(poison, pause), identity={"training": {"dit": dataclasses.asdict(config)}},
    )  # fmt: skip


def same(a, b):
    leaves = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    whole = run_stage(make_stage(), tmp_path / "whole")

    def stop(state, step, folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # after the checkpoint of step 3 and the metrics of step 4
        run_stage(make_stage(dataclasses.replace(CONFIG, sample_every=4), preview=stop), tmp_path / "parts")
    resumed = run_stage(make_stage(), tmp_path / "parts")
    assert same(whole, resumed)
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == [1, 2, 3, 4, 5, 6]
    assert same(run_stage(make_stage(), tmp_path / "parts"), whole)  # a finished run only loads


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    config = dataclasses.replace(CONFIG, steps=40, checkpoint_every=5)
    whole = run_stage(make_stage(config), tmp_path / "whole")
    process = start(tmp_path / "killed", 0.05)
    wait_for(tmp_path / "killed" / "checkpoints" / "10", process)
    process.kill()
    process.wait()
    left = read_metrics(tmp_path / "killed" / "metrics.jsonl")
    assert left[-1]["step"] < 40
    assert same(run_stage(make_stage(config), tmp_path / "killed"), whole)
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    assert lines[0] == lines[1]


def test_sigterm_saves_and_exits(tmp_path):
    process = start(tmp_path / "run", 0.05)
    wait_for(tmp_path / "run" / "checkpoints" / "5", process)
    process.send_signal(signal.SIGTERM)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 0 and "run the same command again" in output
    saved = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    assert f"stopped at step {saved}" in output


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    run_stage(make_stage(), tmp_path)
    other = dataclasses.replace(CONFIG, ema_decay=0.5)
    with pytest.raises(UserError, match=r"training\.dit\.ema_decay"):
        run_stage(make_stage(other), tmp_path)
    run_stage(make_stage(dataclasses.replace(CONFIG, log_every=1)), tmp_path)  # changes nothing that is computed


def test_a_loss_that_is_not_finite_stops_and_is_not_saved(tmp_path):
    config = dataclasses.replace(CONFIG, guard=GuardConfig(max_skipped=0))
    with pytest.raises(UserError, match="step 6"):
        run_stage(make_stage(config, poison=range(5, 6)), tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()] == ["3"]
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_refused_step_is_reported_and_left_out(tmp_path, capsys):
    state = run_stage(make_stage(poison=range(2, 3)), tmp_path)
    assert int(state.step) == 5 and np.all(np.isfinite(state.params["net"]["kernel"]))
    assert "step 3 refused (loss " in capsys.readouterr().err
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["skipped"] for line in lines] == [0, 0, 1, 0, 0, 0] and "loss" not in lines[2]


def test_too_many_refused_steps_in_a_row_stop_the_run(tmp_path):
    config = dataclasses.replace(CONFIG, guard=GuardConfig(max_skipped=2))
    run_stage(make_stage(config, poison=range(1, 3)), tmp_path / "two")
    with pytest.raises(UserError, match="3 steps of dit in a row were refused, up to step 4"):
        run_stage(make_stage(config, poison=range(1, 4)), tmp_path / "three")


@pytest.mark.parametrize("sizes", [(2, 2, 1, 1), (1, 2, 2, 2)], ids=str)
def test_a_run_goes_on_on_another_mesh(tmp_path, sizes):
    whole = run_stage(make_stage(), tmp_path / "whole")

    def stop(state, step, folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(make_stage(dataclasses.replace(CONFIG, sample_every=3), preview=stop), tmp_path / "parts")
    resumed = run_stage(make_stage(sizes=sizes), tmp_path / "parts")
    assert resumed.params["net"]["kernel"].sharding.mesh.size == np.prod(sizes)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_settings_of_a_later_version_do_not_refuse_an_earlier_checkpoint():
    check_config({"a": 1, "new": {"b": 2}}, {"a": 1, "old": 3}, "here")
    with pytest.raises(UserError, match="a"):
        check_config({"a": 1, "new": 2}, {"a": 2}, "here")


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run_stage(make_stage(dataclasses.replace(CONFIG, checkpoint_every=1, keep=2)), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["5", "6"]


def start(folder, pause):
    """This file as a program: the stage of 40 steps with slow batches."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [sys.executable, __file__, str(folder), str(pause)]
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(path, process):
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError(f"{path} never appeared")


if __name__ == "__main__":
    run_stage(
        make_stage(dataclasses.replace(CONFIG, steps=40, checkpoint_every=5), pause=float(sys.argv[2])),
        Path(sys.argv[1]),
    )
