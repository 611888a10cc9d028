"""Every command of README.md, docs/ and launch/ works as it is written, at a size that a CPU runs at once.

The table says how each is made smaller; `documents.SHRINKABLE` says what may be: sizes, steps, paths, topology. The
full-size configs have small networks here (`small_configs.py`). A command without an entry fails.
"""

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib

import documents
import numpy as np
import pytest
import small_configs
import yaml
from documents import LAUNCH, PAGES, ROOT, Small
from PIL import Image

from ltx_jax.data.raw.toyworld import render
from ltx_jax.media.video import write_video

DIT, VIDEO, AUDIO = (f"config.training.{stage}." for stage in ("dit", "video_vae", "audio_vae"))
WARMUP = "optimizer.schedule.warmup_steps"
FEW_DIT = {DIT + "steps": 2, DIT + "batch_size": 4, DIT + WARMUP: 1}
FEW = FEW_DIT | {
    DIT + "clips": 8, DIT + "sample_every": 0,
    VIDEO + "steps": 2, VIDEO + "batch_size": 2, VIDEO + "window": 5, VIDEO + WARMUP: 1, VIDEO + "sample_every": 0,
    AUDIO + "steps": 2, AUDIO + "batch_size": 2, AUDIO + "window": 33, AUDIO + "segment": 16, AUDIO + WARMUP: 1,
    AUDIO + "sample_every": 0,
}  # fmt: skip
UPSAMPLER = "config.training.upsampler."
FEW64 = FEW | {
    UPSAMPLER + "steps": 2, UPSAMPLER + "batch_size": 2, UPSAMPLER + WARMUP: 1,
    "config.data.width": 64, "config.data.height": 64, "config.data.frames": 9, "config.data.size": 16,
}  # fmt: skip
MODEL = "model/model.safetensors"
CUDA, TPU = "jax_cuda12_plugin", "libtpu"


@dataclasses.dataclass(frozen=True)
class Journey:
    """Commands of one page that are run one after the other in one folder. needs: a module without which they skip."""

    page: str
    commands: dict[str, Small]
    slow: bool = False
    needs: str = ""
    models: bool = False  # the files of full-size models are there, and clips that 2.0 has prepared


PREPARE, TRAIN = "python -m ltx_jax.tools.prepare ", "python train.py "
PLAN = "python -m ltx_jax.tools.plan --config=configs/"
LAUNCHED = {"init_from": "ltx-2-19b.safetensors", "config.data.path": "prepared", "workdir": "runs/one"} | FEW_DIT
JOURNEYS = {
    "first clip": Journey("README.md", {"*&& .venv/bin/python sample.py *": Small()}),
    "train": Journey("README.md", {
        TRAIN + "--config=configs/experiments/clips.py *": Small(
            FEW | {"config.data.path": "clips"}, outputs=(f"runs/mine/{MODEL}", "runs/mine/dit/metrics.jsonl")
        ),
        "python sample.py --checkpoint=runs/mine/model *": Small({"steps": 1}),
    }, slow=True),
    "sample": Journey("README.md", {
        'python sample.py --prompt="a blue circle" --image=first.png *': Small({"steps": 1}),
        'python sample.py --prompt="a big magenta *': Small({"steps": 1, "num_samples": 2}),
        "import ltx_jax\n*": Small(outputs=("out.mp4",)),
    }),
    "train the toy": Journey("README.md", {
        TRAIN + "--config=configs/toy.py *": Small(FEW | {"config.data.size": 16}, outputs=(f"runs/toy/{MODEL}",)),
    }, slow=True),
    "check": Journey("README.md", {
        "python -m ltx_jax.tools.check *": Small(
            paths={"tests/golden/*/*.safetensors": "tests/golden/sampling/schedule_*.safetensors"}
        ),
    }),
    "plan a card": Journey("README.md", {PLAN + "ltx2_19b.py --topology=h100:1 *": Small()}, slow=True, needs=CUDA),
    "plan a pod": Journey("README.md", {
        PLAN + "ltx2_19b.py --topology=v6e:4x4 --mode=train": Small({"topology": "v6e:2x2"}),
        PLAN + "ltx2_19b.py --topology=v6e:4x4 --mode=sample *": Small({"topology": "v6e:2x2", "num_frames": 17}),
    }, slow=True, needs=TPU),
    "plan at scale": Journey("docs/scale.md", {
        PLAN + "ltx2_19b.py --topology=v6e:4x4 --mode=train": Small({"topology": "v6e:2x2"}),
        PLAN + "ltx2_19b.py --topology=v6e:2x2 --mode=train --lora": Small(),
        PLAN + "ltx2_19b.py --topology=v6e:4x4 --mode=sample *": Small(
            {"topology": "v6e:2x2", "width": 384, "height": 256, "num_frames": 17}
        ),
        PLAN + "ltx2_19b.py --topology=v6e:4x4 --mode=train --search": Small(
            {"topology": "v6e:2x2", "search_limit": 2}
        ),
    }, slow=True, needs=TPU),
    "beside PyTorch": Journey("docs/scale.md", {
        "python benchmarks/dit_step.py": Small({"layers": 1, "grid": "1,2,2", "repeats": 1}),
        "python benchmarks/dit_step.py --size=toy": Small({"layers": 1, "repeats": 1}),
        "python benchmarks/attention.py *": Small({"tokens": 64, "heads": 2}),
    }, slow=True),
    "forward pass ahead of time": Journey("docs/scale.md", {
        "python benchmarks/dit_step.py --aot=*": Small({"layers": 1, "grid": "2,4,4"}),
    }, slow=True, needs=TPU),
    "clips to a LoRA": Journey("docs/training.md", {
        PREPARE + "--input=clips *": Small(outputs=("prepared/index.json",)),
        TRAIN + "--stage=dit --init_from=toy *": Small(
            FEW_DIT, outputs=("runs/lora/lora.safetensors", "runs/lora/dit/metrics.jsonl")
        ),
        "python sample.py --lora=*": Small({"steps": 1}),
    }),
    "a released model": Journey("docs/training.md", {
        PREPARE + "--config=configs/ltx2_3_22b.py *": Small(
            {"resolutions": "64x64x9,96x64x9", "workers": 0, "output": "prepared_2_3"},
            outputs=("prepared_2_3/index.json",),
        ),
        TRAIN + "--config=configs/ltx2_3_22b.py *": Small(
            FEW_DIT | {"config.mesh.fsdp": 2, "config.data.path": "prepared_2_3"}, devices=2,
            outputs=("runs/lora/lora.safetensors",)
        ),
    }, slow=True, models=True),
    "plan the released model": Journey("docs/training.md", {
        PLAN + "ltx2_3_22b.py --topology=h100:8 *": Small(),
    }, slow=True, needs=CUDA),
    "what fewer bytes cost": Journey("docs/checkpoints.md", {
        "python benchmarks/quantization.py": Small(),
    }, slow=True),
    "plan in fewer bytes": Journey("docs/checkpoints.md", {
        PLAN + "ltx2_3_22b.py --topology=rtx4090 *": Small(),
    }, slow=True, needs=CUDA),
    "your own clips": Journey("docs/clips.md", {
        "from pathlib import Path\n*": Small(outputs=("clips/0.mp4", "clips/3.txt")),
        TRAIN + "*--stage=video_vae": Small(FEW, outputs=("runs/clips/video_vae/finished.json",)),
        TRAIN + "*--stage=dit": Small(FEW, outputs=(f"runs/clips/{MODEL}",)),
        "python sample.py --checkpoint=runs/clips/model *": Small({"steps": 1}),
        "python -m ltx_jax.tools.evaluate *": Small(),
    }, slow=True),  # the README's trainings are of the same programs
    "the next toy": Journey("docs/toy.md", {
        TRAIN + "*--workdir=runs/toy64": Small(
            FEW64, outputs=(f"runs/toy64/{MODEL}", "runs/toy64/model/spatial_upsampler.safetensors")
        ),
        TRAIN + "*--workdir=runs/sharp *": Small(FEW64, outputs=("runs/sharp/*/finished.json",)),
        "python -m ltx_jax.tools.evaluate *": Small({"prompts": 2, "steps": 1}),
        TRAIN + "*--workdir=runs/ablation *": Small(FEW64, outputs=("runs/ablation/*/finished.json",)),
    }, slow=True),
    "families": Journey("docs/families.md", {
        TRAIN + "*--config.training.dit.process=*": Small(
            FEW_DIT | {DIT + "clips": 8, DIT + "sample_every": 0}, outputs=(f"runs/ddpm/{MODEL}",)
        ),
        "python sample.py --checkpoint=runs/ddpm/model *": Small({"steps": 2}),
        "python sample.py --cfg_every=2 *": Small({"steps": 2}),
    }, slow=True),
    "files of weights": Journey("docs/checkpoints.md", {
        "python -m ltx_jax.tools.inspect ltx-2-19b.safetensors": Small(),
        "python -m ltx_jax.tools.inspect --config=*": Small(),
        "python sample.py --checkpoint=ltx-2-19b.safetensors *": Small({"steps": 1}),
        "python sample.py --checkpoint=ltx-2.3-22b.safetensors *": Small({"steps": 1}, outputs=("small.mp4",)),
        "python -m ltx_jax.tools.convert *--dry_run": Small(),
        "python -m ltx_jax.tools.convert *--manifest": Small(outputs=("split/transformer.safetensors.sha256.json",)),
        "python -m ltx_jax.tools.convert --input=split *": Small(outputs=("official/model.safetensors",)),
    }, slow=True, models=True),
    "GPU nodes": Journey("launch/jobset_gpu.yaml", {
        TRAIN + "--config=configs/ltx2_19b.py *": Small(LAUNCHED | {"config.mesh.fsdp": 2}, devices=4),
    }, slow=True, models=True),
    "TPU slices": Journey("launch/jobset_tpu.yaml", {
        TRAIN + "--config=configs/ltx2_19b.py *": Small(LAUNCHED | {"config.mesh.fsdp": 4}, devices=4),
    }, slow=True, models=True),
}  # fmt: skip
CLUSTER = ("kubectl ", "sbatch ", "gcloud ", "mpirun ")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Files of the small 2.0 and 2.3 models, as the pages call them, and clips that the first has prepared."""
    folder = tmp_path_factory.mktemp("models")
    small_configs.write(folder / "configs")
    make_clips(folder / "clips")
    for name, config in (("ltx-2-19b", "ltx2_19b.py"), ("ltx-2.3-22b", "ltx2_3_22b.py")):
        small_configs.save_model(config, folder / f"{name}.safetensors")
    small = Small({"resolutions": "64x64x9", "workers": 0})
    documents.run(
        "python -m ltx_jax.tools.prepare --config=configs/ltx2_19b.py --checkpoint=ltx-2-19b.safetensors "
        "--input=clips --output=prepared", small, folder,
    )  # fmt: skip
    return folder


@pytest.fixture
def folder(tmp_path):
    """What a reader has: the repository, a few clips with captions, a picture."""
    for name in ("train.py", "sample.py", "benchmarks", "launch", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    small_configs.write(tmp_path / "configs")
    Image.fromarray(render(0, 0).video[0]).save(tmp_path / "first.png")
    make_clips(tmp_path / "clips")
    return tmp_path


def make_clips(folder):
    """Clips of two shapes, one without sound, with captions beside them."""
    for i in range(5):
        clip = render(0, i)
        video = np.concatenate([clip.video, clip.video[:, :, :16]], axis=2) if i == 4 else clip.video
        write_video(folder / f"{i}.mp4", video, 8, None if i == 1 else clip.audio, 16000)
        (folder / f"{i}.txt").write_text(clip.caption)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * j.slow) for n, j in JOURNEYS.items()])
def test_commands_work_as_they_are_written(name, folder, request):
    journey = JOURNEYS[name]
    if journey.needs and importlib.util.find_spec(journey.needs) is None:
        pytest.skip(f"{journey.needs} is not installed; pip install '.[plan]'")
    if journey.models:
        link_models(request.getfixturevalue("models"), folder)
    written = documents.commands(journey.page)
    for pattern, small in journey.commands.items():
        for command in (c for c in written if documents.matches(pattern, c)):
            documents.run(command, small, folder)


def link_models(models, folder):
    for path in models.iterdir():
        if path.name not in ("configs", "clips"):
            (folder / path.name).symlink_to(path)


def test_every_command_has_an_entry():
    for page in (*PAGES, *LAUNCH):
        patterns = [p for j in JOURNEYS.values() if j.page == page for p in j.commands]
        written = [c for c in documents.commands(page) if not _checked_elsewhere(c)]
        for command in written:
            found = [p for p in patterns if documents.matches(p, command)]
            assert len(found) == 1, f"{page}: {found or 'no entry'} for: {command}"
        for pattern in patterns:
            assert any(documents.matches(pattern, c) for c in written), f"{page} has no command for the entry {pattern}"
    assert not {j.page for j in JOURNEYS.values()} - {*PAGES, *LAUNCH}


def _checked_elsewhere(command):
    installing = re.search(r"(^|/)pip install ", command) and "sample.py" not in command
    return installing or command.startswith(CLUSTER) or re.fullmatch(r"python -m [\w.]+", command)


def test_readme_and_ci_agree():
    """.ci/run takes its commands from README.md; extras that a page installs exist."""
    tests = [c for c in documents.commands("README.md") if "-m pytest" in c]
    assert len(tests) == 1
    ci = (ROOT / ".ci" / "run").read_text()
    take = re.search(r"sed -n '[^']*pytest[^']*' README\.md", ci)
    assert take, ".ci/run no longer reads the test command from README.md"
    taken = subprocess.run(["bash", "-c", take[0]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert taken.splitlines()[:1] == tests
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in PAGES:
        for extras in re.findall(r"pip install[^`\n]*\[([\w,]+)\]", (ROOT / page).read_text(encoding="utf-8")):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), f"{page} installs {extras}"


def test_programs_that_pages_name_exist():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for module in re.findall(r"python -m (ltx_jax[\w.]*)", text):
            assert importlib.util.find_spec(module) is not None, f"{page}: {module}"
        for name in re.findall(r"`((?:docs|tests|launch|configs|benchmarks|ltx_jax)/[\w./]+)`", text):
            assert (ROOT / name).exists(), f"{page}: {name}"
        for name in re.findall(r"\]\(([\w./]+)\)", text):
            assert (ROOT / page).parent.joinpath(name).exists(), f"{page}: {name}"


def test_cluster_commands_are_well_formed():
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in (*PAGES, *LAUNCH)}
    found = [(p, c) for p, t in texts.items() for c in re.findall(r"`((?:kubectl|sbatch|gcloud|mpirun) [^`]+)`", t)]
    found += [(p, c) for p in (*PAGES, *LAUNCH) for c in documents.commands(p) if c.startswith(CLUSTER)]
    assert len(found) >= 6
    for page, command in found:
        assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0, f"{page}: {command}"
        for name in re.findall(r"launch/[\w.]+", command):
            assert (ROOT / name).is_file(), f"{page}: {command}"
    for name in LAUNCH:
        if name.endswith(".yaml"):
            jobs = list(yaml.safe_load_all((ROOT / name).read_text()))
            assert [job["kind"] for job in jobs] == ["JobSet"] and documents.commands(name)[1:], name
        else:
            assert subprocess.run(["bash", "-n", ROOT / name]).returncode == 0, name


SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
exec "$@"
"""
QUEUE = """#!/bin/bash
echo "$@" >> queued
"""


@pytest.mark.slow
def test_the_slurm_script_trains_and_queues_itself_until_it_has_ended(folder, models):
    """`srun` and `scontrol` are stood in for; a run that SIGTERM saved (no mark of its end) is queued again."""
    link_models(models, folder)
    tools = folder / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", QUEUE), ("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    environment |= {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(folder)}
    (written,) = [c for c in documents.commands("launch/train.slurm") if c.startswith("sbatch")]
    arguments = documents.shrunk(written.replace("sbatch", "python"), Small(LAUNCHED))
    command = ["bash", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "runs/one/dit/finished.json").is_file() and not (folder / "queued").exists()
    shutil.rmtree(folder / "runs")
    (tools / "python").write_text("#!/bin/bash\nexit 0\n")  # saved, not ended
    assert subprocess.run(command, cwd=folder, env=environment).returncode == 0
    assert (folder / "queued").read_text() == "requeue 7\n"
