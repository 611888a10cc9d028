"""Two real processes with two devices each train as one process with four does: losses, resume, SIGTERM."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ltx_jax.training.metrics import read_metrics

SIZES = {"fsdp": (2, 2, 1, 1), "context": (1, 2, 2, 1)}  # the batch is divided over the processes, or held by both


def program(workdir: Path, mesh: str, steps: int, pause: float) -> None:
    """What each process runs."""
    import jax
    import jax.numpy as jnp
    from test_resume import CONFIG, Numbers, objective

    from ltx_jax.parallel import multihost
    from ltx_jax.parallel.mesh import MeshConfig, make_mesh
    from ltx_jax.parallel.program import batch_like, place, replicated_like
    from ltx_jax.training.loop import Stage, run_stage
    from ltx_jax.training.optimizer import make_optimizer
    from ltx_jax.training.state import initial_state
    from ltx_jax.training.step import make_train_program

    multihost.start()
    config = dataclasses.replace(CONFIG, steps=steps, sample_every=steps)
    devices = make_mesh(MeshConfig(*SIZES[mesh]))
    share, shares = multihost.batch_share(devices, 4)

    class Share(Numbers):
        def __next__(self):
            batch = super().__next__()
            size = 4 // shares
            return {"x": batch["x"][share * size : (share + 1) * size]}

    shapes = {"net": {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32)}}
    axes = {"net": {"kernel": ("embed", "mlp")}}
    frozen = {"target": np.float32(0.5)}
    abstract = replicated_like(frozen, devices)
    batch = batch_like({"x": jax.ShapeDtypeStruct((4, 8), jnp.float32)}, devices)
    train = make_train_program(objective, config, shapes, axes, abstract, batch, devices)
    params = {"net": {"kernel": np.cos(np.arange(64, dtype=np.float32)).reshape(8, 8)}}
    shown = []
    stage = Stage(
        name="dit", config=config, program=train, frozen=place(frozen, abstract),
        initialize=lambda: place(
            jax.device_get(initial_state(params, make_optimizer(config.optimizer, axes), config)),
            train.arguments["state"],
        ),
        batches=lambda: Share(pause=pause), identity={}, preview=lambda state, step, folder: shown.append(step),
    )  # fmt: skip
    state = run_stage(stage, workdir)
    if multihost.is_first() and shown != [steps]:
        raise AssertionError(shown)
    np.save(workdir / f"kernel_{jax.process_index()}.npy", multihost.to_host(state.weights)["net"]["kernel"])


def start(workdir: Path, mesh: str, processes: int, steps: int = 6, pause: float = 0.0) -> list[subprocess.Popen]:
    """The program in `processes` processes with four devices together."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}",
        "PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parent}",
    }  # fmt: skip
    if processes > 1:
        environment |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(processes)}
    command = [sys.executable, __file__, str(workdir), mesh, str(steps), str(pause)]
    numbers = [{"JAX_PROCESS_ID": str(i)} for i in range(processes)] if processes > 1 else [{}]
    return [subprocess.Popen(command, env=environment | n, stderr=subprocess.PIPE, text=True) for n in numbers]


def finish(processes: list[subprocess.Popen]) -> list[str]:
    outputs = [process.communicate(timeout=300)[1] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-2000:]
    return outputs


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finish(start(folder, "fsdp", 1))
    return folder


def same_run(folder: Path, other: Path) -> None:
    lines, expected = (read_metrics(f / "metrics.jsonl") for f in (folder, other))
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([x[name] for x in lines], [x[name] for x in expected], rtol=1e-6)
    for i in (0, 1):
        np.testing.assert_allclose(np.load(folder / f"kernel_{i}.npy"), np.load(other / "kernel_0.npy"), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", list(SIZES))
def test_two_processes_give_the_losses_of_one(alone, tmp_path, mesh):
    finish(start(tmp_path, mesh, 2))
    same_run(tmp_path, alone)


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(alone, tmp_path):
    first, second = running = start(tmp_path, "fsdp", 2, steps=400, pause=0.05)
    while not (tmp_path / "checkpoints" / "3").exists():
        assert first.poll() is None and second.poll() is None, first.stderr.read()
    second.send_signal(signal.SIGTERM)  # one of them is told
    outputs = finish(running)
    saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert f"stopped at step {saved}" in outputs[0]


if __name__ == "__main__":
    program(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
