"""The commands of docs/training.md work as they are written, one after the other, with fewer training steps."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from ltx_jax.checkpoints.lora import load_lora
from ltx_jax.data.raw.toyworld import render
from ltx_jax.media.video import probe, write_video

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"


def commands():
    """The page's indented commands as argument lists, two steps of training instead of the page's."""
    few = "dit.steps=2 --config.training.dit.optimizer.schedule.warmup_steps=1"
    lines = [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    python ")]
    return [shlex.split(re.sub(r"dit\.steps=\d+", few, line)) for line in lines]


def make_clips(folder):
    """Clips of both buckets, one without sound, with captions as the page says."""
    for i in range(5):
        clip = render(0, i)
        video = np.concatenate([clip.video, clip.video[:, :, :16]], axis=2) if i == 4 else clip.video
        write_video(folder / f"{i}.mp4", video, 8, None if i == 1 else clip.audio, 16000)
        (folder / f"{i}.txt").write_text(clip.caption)


def test_the_page_leads_from_clips_to_a_sample(tmp_path):
    make_clips(tmp_path / "clips")
    for name in ("train.py", "sample.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    found = commands()
    assert [c[1] for c in found] == ["-m", "train.py", "sample.py"]
    for command in found:
        done = subprocess.run(
            [sys.executable, *command[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-3000:]}"
    assert len(load_lora(tmp_path / "runs" / "lora" / "lora.safetensors").pairs) > 0
    assert probe(tmp_path / "out.mp4").frames == 17
