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


def test_gates_of_older_diffusion_decoders_are_folded():
    """Rows divided by a gate that lies beside them are the rows that the recording has."""
    case = read_case(GOLDEN / "video_vae" / "diffusion_v_steps.safetensors")
    weights = dict(case.weights)
    for layer, gate in (("attn.proj", "gate_msa"), ("mlp.w_down", "gate_mlp"), ("context_proj", "gate_ctx")):
        factor = np.linspace(0.5, 2, 16, dtype=np.float32)
        weights[f"decoder.diff_blocks.0.{gate}"] = factor
        for name in (f"decoder.diff_blocks.0.{layer}.{kind}" for kind in ("weight", "bias")):
            if name in weights:
                weights[name] = weights[name] / factor.reshape(-1, *(1,) * (weights[name].ndim - 1))
    assert_passes(dataclasses.replace(case, weights=weights))


def test_several_frames_are_brought_to_a_long_side():
    case = read_case(GOLDEN / "sampling" / "image_long_side.safetensors")
    frames = {"image": np.stack([case.inputs["image"], case.inputs["image"] / 2])}
    (resized,) = case.outputs.values()
    expected = {"resized": np.stack([resized, resized / 2])}
    assert_passes(dataclasses.replace(case, inputs=frames, outputs=expected))


def test_loops_that_draw_nothing_need_no_noise():
    """At eta 0 the ancestral loop takes Euler's steps, whose recording it must then meet."""
    euler = read_case(GOLDEN / "sampling" / "trajectory_euler_av.safetensors")
    config = {**euler.config, "method": "euler_ancestral", "eta": 0.0, "s_noise": 1.0}
    assert_passes(dataclasses.replace(euler, kind="diffusion.trajectory.euler_ancestral", config=config))


def test_a_modality_that_skips_alone_keeps_its_prediction():
    case = read_case(GOLDEN / "sampling" / "guidance_denoiser_all_passes.safetensors")
    video = {**case.config["video_params"], "skip_step": 1}
    first = {k: v for k, v in case.outputs.items() if k != "network_calls"}
    again = {"video_denoised_1": first["video_denoised_0"], "network_calls": np.array([1, 1])}
    config = {**case.config, "video_params": video, "steps": [0, 1]}
    assert_passes(dataclasses.replace(case, config=config, outputs={**first, **again}))
