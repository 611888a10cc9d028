"""Cases of known kinds that the recordings lack, made by altering recorded ones."""

import dataclasses
from pathlib import Path

import numpy as np

from ltx_jax.conformance.case import read_case
from ltx_jax.conformance.check import run_case

GOLDEN = Path(__file__).parents[1] / "golden"


def assert_passes(case):
    failed = [f"{r.name}: {r.problem or r.error}" for r in run_case(case) if not r.passed]
    assert not failed, failed


def test_a_transformer_may_answer_in_fewer_channels_than_it_reads():
    """Its case records no x0, which would be of another width than the latent."""
    case = read_case(GOLDEN / "dit" / "forward_video_model.safetensors")
    kept = case.config["transformer"]["out_channels"] - 1
    weights = {k: v[:kept] if k.startswith("proj_out.") else v for k, v in case.weights.items()}
    config = {**case.config, "transformer": {**case.config["transformer"], "out_channels": kept}}
    outputs = {"video_velocity": case.outputs["video_velocity"][..., :kept]}
    assert_passes(dataclasses.replace(case, weights=weights, config=config, outputs=outputs))


def test_several_frames_are_brought_to_a_long_side():
    case = read_case(GOLDEN / "sampling" / "image_long_side.safetensors")
    frames = {"image": np.stack([case.inputs["image"], case.inputs["image"] / 2])}
    (resized,) = case.outputs.values()
    expected = {"resized": np.stack([resized, resized / 2])}
    assert_passes(dataclasses.replace(case, inputs=frames, outputs=expected))
