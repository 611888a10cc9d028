"""The command line itself in two real processes: the losses of one process, and SIGTERM to one of them stops both."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import save_tiny_model

from ltx_jax.checkpoints.lora import load_lora
from ltx_jax.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]


class Command:
    """`train.py` on four devices, of one process or of two."""

    def __init__(self, folder: Path):
        self.folder, self.model = folder, save_tiny_model(folder / "model")

    def start(self, workdir: str, processes: int) -> list[subprocess.Popen]:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}",
            "PYTHONPATH": f"{ROOT}:{Path(__file__).parents[1]}:{Path(__file__).parent}",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "programs"),
        }  # fmt: skip
        command = [
            sys.executable, str(ROOT / "train.py"), f"--config={Path(__file__).with_name('tiny_config.py')}",
            "--stage=dit", f"--init_from={self.model}", f"--workdir={self.folder / workdir}",
            "--config.mesh.data=2", "--config.mesh.fsdp=2",
        ]  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        cluster = [f"--coordinator={address}", f"--processes={processes}"]
        numbers = [[*cluster, f"--process_id={k}"] for k in range(processes)] if processes > 1 else [[]]
        return [subprocess.Popen(command + n, env=environment, stderr=subprocess.PIPE, text=True) for n in numbers]

    def run(self, workdir: str, processes: int) -> Path:
        finish(self.start(workdir, processes))
        return self.folder / workdir


def finish(running: list[subprocess.Popen]) -> list[str]:
    outputs = [process.communicate(timeout=400)[1] for process in running]
    for process, output in zip(running, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
    return outputs


@pytest.mark.slow
def test_two_processes_train_stop_and_go_on_as_one(tmp_path):
    command = Command(tmp_path)
    alone = command.run("alone", 1)
    running = command.start("both", 2)
    while not (tmp_path / "both" / "dit" / "checkpoints" / "5").exists():
        assert all(process.poll() is None for process in running), [p.stderr.read()[-3000:] for p in running]
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)  # one of them is told
    assert "run the same command again to go on" in finish(running)[0]
    assert not (tmp_path / "both" / "dit" / "finished.json").exists()
    both = command.run("both", 2)
    lines, expected = (read_metrics(folder / "dit" / "metrics.jsonl") for folder in (both, alone))
    assert [line["step"] for line in lines] == [line["step"] for line in expected] == list(range(1, 41))
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([x[name] for x in lines], [x[name] for x in expected], rtol=1e-4)
    ours, theirs = (load_lora(folder / "lora.safetensors").pairs for folder in (both, alone))
    assert list(ours) == list(theirs)
    for module, pair in ours.items():
        for a, b in zip(pair, theirs[module], strict=True):
            np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=2e-2, atol=1e-5)
