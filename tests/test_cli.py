"""The command line: spellings, help, and one sentence with exit code 2 for every mistake."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forks import Forks

from ltx_jax.cli import normalise

ROOT = Path(__file__).parents[1]


ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
}


def run(script: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, script if script == "-m" else str(ROOT / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=120)


@pytest.fixture(scope="module")
def forks():
    """What runs many commands fast; tests of one command alone start it as a user does."""
    server = Forks(ENVIRONMENT)
    yield server
    server.close()


def test_dashes_and_official_spellings():
    argv = ["sample.py", "--num-frames=9", "--output-path", "x.mp4", "--negative-prompt=a-b", "--frame-rate", "8"]
    expected = ["sample.py", "--num_frames=9", "--output", "x.mp4", "--negative_prompt=a-b", "--fps", "8"]
    assert normalise(argv) == expected


def test_several_values_become_one():
    assert normalise(["s", "--image", "a.png", "0", "1.0", "--seed=1"]) == ["s", "--image=a.png,0,1.0", "--seed=1"]


def test_a_flag_without_its_values_stays_a_switch():
    assert normalise(["plan", "--lora", "--mode=train"]) == ["plan", "--lora", "--mode=train"]


def test_config_comes_first_and_its_keys_keep_their_spelling():
    assert normalise(["t", "--config.a.b-c=1", "--config=x.py"]) == ["t", "--config=x.py", "--config.a.b-c=1"]


def test_config_values_may_stand_apart():
    argv = ["t", "--config.mesh.fsdp", "2", "--config", "x.py", "--seed=1"]
    assert normalise(argv) == ["t", "--config=x.py", "--config.mesh.fsdp=2", "--seed=1"]


@pytest.mark.parametrize("script", ["train.py", "sample.py"])
def test_help_helps(script):
    result = run(script, "--help")
    assert result.returncode == 0
    assert "--config" in result.stdout and "usage" in result.stdout


SAMPLE = [
    (["--prompt=x", "--width=50"], "multiple of 8"),
    (["--prompt=x", "--num_frames=16"], "1 + k x 4"),
    (["--prompt=x", "--steps=0"], "at least 1"),
    (["--prompt=x", "--output=out.txt"], "no video"),
    (["--prompt=x", "--image=none.png"], "no image"),
    (["--prompt=x", "--image=LICENSE"], "image"),
    (["--prompt=x", "--checkpoint=nowhere"], "no checkpoint"),
    (["--prompt=x", "--config=nowhere.py"], "no config file"),
    (["--prompt=x", "--config.model.nonsense=3"], "Unknown config key"),
    (["--prompt=x", "--config.mesh.fsdp=7"], "does not divide"),
    (["--prompt=x", "--config=configs/ltx2_19b.py"], "is not that of"),
    (["--prompt=x", "--num_frams=9"], "did you mean"),
    (["--prompt=x", "--auto-duration", "2", "10"], "no duration head"),
    (["--prompt=x", "--auto_duration", "2"], "takes 2 numbers"),
    (["--prompt=x", "--enhance-prompt"], "no chat model"),
    (["--prompt=x", "--prompt-enhancer-gemma-root", "nowhere"], "--prompt_enhancer takes"),
    (["--prompts_file=empty.txt"], "empty"),
    (["--prompt=x", "--prompts_file=empty.txt"], "not both"),
    (["--prompt=x", "--auto_duration", "--output=a.mp4"], "--auto_duration needs a value"),
    (["--prompt=x", "--config.mesh.fsdp=abc"], "takes a number"),
    (["--prompt=x", "--lora=configs"], "is a folder"),
    (["--prompt=x", "--quantization", "nvfp4-cast"], "--quantization=nvfp4-cast is not offered"),
    (["--prompt=x", "--offload=disk"], "--offload=disk is not offered"),
    ([], "no prompt"),
]


@pytest.mark.parametrize(("arguments", "words"), SAMPLE, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_sample_refuses_with_one_sentence(arguments, words, tmp_path, forks):
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("LICENSE", "configs"):
        os.symlink(ROOT / name, tmp_path / name)
    result = forks.run(str(ROOT / "sample.py"), *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) <= 3


def test_a_tool_run_by_its_path_finds_the_standard_library():
    result = run("ltx_jax/tools/inspect.py", "ltx_jax/assets/toy")
    assert result.returncode == 0 and "10,221,449 parameters" in result.stdout, result.stderr
    assert run("ltx_jax/tools/plan.py", "--help").returncode == 0


def test_a_reader_that_leaves_gets_no_traceback():
    command = f"{sys.executable} -m ltx_jax.tools.inspect --config=configs/ltx2_5_22b.py --names | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.stdout.count("\n") == 1 and not result.stderr


def test_damaged_checkpoints_are_refused(tmp_path):
    model = ROOT / "ltx_jax" / "assets" / "toy" / "model.safetensors"
    (tmp_path / "truncated.safetensors").write_bytes(model.read_bytes()[:100_000])
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x02}q\x00.")
    for name, words in (("truncated", "truncated"), ("pickle", "pickle")):
        result = run("sample.py", "--prompt=x", f"--checkpoint={tmp_path / name}.safetensors")
        assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr


TRAIN = [
    (["--config.data.path=nowhere"], "nowhere"),
    (["--config.data.path=."], "no video"),
    (["--workdir=/proc/none/x"], "/proc/none/x"),
    (["--config.data.width=50"], "multiple of 8"),
    (["--config.data.frames=16"], "1 + 4 k"),
    (["--config.trainin.seed=3"], "Unknown config key"),
    (["--config.mesh.tensor=3"], "does not divide"),
    (["--stage=nothing"], "stage"),
    (["--init_from=nowhere"], "nowhere"),
    (["--stage=dit"], "needs the trained video_vae"),
    (["--config.training.dit.remat=some"], "must be one of none"),
    (["--config.training.video_vae.window=10"], "must be 1 + k x 4"),
    (
        [
            "--stage=dit",
            "--init_from=toy",
            "--config.training.dit.mode=outpainting",
            "--config.training.dit.spatial_region=(0,0,999,999)",
        ],
        "all or nothing",
    ),
    (["--stage=dit", "--init_from=toy", "--config.training.dit.lora.target_modules='no'"], "matches no linear layer"),
]


@pytest.mark.parametrize(("arguments", "words"), TRAIN, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_train_refuses_with_one_sentence(arguments, words, tmp_path, forks):
    folder = [] if any(a.startswith("--workdir") for a in arguments) else [f"--workdir={tmp_path / 'run'}"]
    result = forks.run(str(ROOT / "train.py"), *folder, *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) <= 4
    assert not (tmp_path / "run" / "config.json").exists()


CUDA = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec("jax_plugins.xla_cuda12") is None,
    reason="the CUDA compiler is not installed (extra `plan`)",
)
PLAN = [
    (["--topology=v9:2x2"], "Unknown device"),
    (["--topology=h100:8", "--width=100"], "multiple of 8"),
    (["--topology=h100:8", "--num_frames=16"], "1 + 4 k"),
    pytest.param(["--topology=h100:8", "--config.mesh.fsdp=3"], "does not divide", marks=CUDA),
    ([], "Say what to plan for"),
]


@pytest.mark.parametrize(("arguments", "words"), PLAN, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_plan_refuses_with_one_sentence(arguments, words, forks):
    result = forks.run("-m", "ltx_jax.tools.plan", *arguments, cwd=ROOT)
    assert result.returncode == 2 and words in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
