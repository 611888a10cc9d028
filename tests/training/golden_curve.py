"""The first steps of the toy transformer's training, recorded; `test_golden_curve.py` reproduces them.

    JAX_PLATFORMS=cpu python tests/training/golden_curve.py          # record anew, after a change that is meant

Configuration: configs/toy.py with 128 encoded clips, the autoencoders of the shipped weights, one device.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.codec import AUDIO_DECODER, AUDIO_ENCODER, VIDEO_DECODER, VIDEO_ENCODER
from ltx_jax.data.raw.source import open_source
from ltx_jax.data.raw.toy_tokenizer import toy_tokenizer
from ltx_jax.experiment import Experiment, experiment_config
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import place
from ltx_jax.training.dit.clips import prepared_source
from ltx_jax.training.dit.stage import dit_stage
from ltx_jax.training.setting import Setting

PATH = Path(__file__).parents[1] / "golden" / "toy_dit_curve.json"
STEPS, CLIPS, BATCH = 30, 128, 16


def first_steps(folder: Path, steps: int = STEPS) -> list[dict[str, float]]:
    """Loss and gradient norm of the first updates, as train.py makes them."""
    experiment = Experiment.from_config(experiment_config("toy"))
    stage_config = dataclasses.replace(experiment.training.dit, clips=CLIPS, batch_size=BATCH, steps=1500)
    training = dataclasses.replace(experiment.training, dit=stage_config)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    model = load_bundle("toy")
    setting = Setting(
        experiment.model, training, experiment.data, mesh, folder, toy_tokenizer(experiment.model.text_length)
    )
    names = (*VIDEO_ENCODER, *VIDEO_DECODER, *AUDIO_ENCODER, *AUDIO_DECODER)
    encoders = {part: model.params[part] for part in names}
    clips = prepared_source(setting, open_source(experiment.data), encoders)
    stage = dit_stage(setting, clips, None, encoders)
    compiled, state, batches = stage.program.compile(), stage.initialize(), stage.batches()
    curve: list[dict[str, float]] = []
    for _ in range(steps):
        host, wanted = next(batches), stage.program.arguments["batch"]
        batch = place({name: host[name] for name in wanted}, wanted)
        state, metrics = compiled(state, stage.frozen, batch)
        values: dict[str, Any] = jax.device_get({k: metrics[k] for k in ("loss", "grad_norm")})
        curve.append({k: float(np.float32(v)) for k, v in values.items()})
    return curve


def record() -> None:
    """Write the curve with what it depends on in its header."""
    with tempfile.TemporaryDirectory() as folder:
        curve = first_steps(Path(folder))
    header = {
        "command": "JAX_PLATFORMS=cpu python tests/training/golden_curve.py",
        "config": f"configs/toy.py, clips {CLIPS}, batch {BATCH}, autoencoders of the shipped weights",
        "mesh": {"data": 1, "fsdp": 1, "context": 1, "tensor": 1},
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    PATH.write_text(json.dumps({"header": header, "curve": curve}, indent=1) + "\n")


if __name__ == "__main__":
    record()
