"""Described devices: names, sentences, and small real compiles where the compilers are installed."""

import dataclasses
import importlib.util

import jax
import pytest

from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment, experiment_config
from ltx_jax.planning.meshes import choose_mesh
from ltx_jax.planning.plan import plan
from ltx_jax.planning.topology import topology
from ltx_jax.planning.workload import Workload

TPU = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra `plan`)")
CUDA = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec("jax_plugins.xla_cuda12") is None,
    reason="the CUDA compiler is not installed (extra `plan`)",
)


@pytest.mark.parametrize(("name", "words"), [("v9z:2", "Unknown device"), ("v6e:4", "size"), ("h100:x", "number")])
def test_unknown_hardware_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        topology(name)


def small_experiment() -> Experiment:
    """The 2.0 training step with two blocks: everything else at full size."""
    experiment = Experiment.from_config(experiment_config("ltx2_19b"))
    model = dataclasses.replace(
        experiment.model, transformer=dataclasses.replace(experiment.model.transformer, num_layers=2)
    )
    stage = dataclasses.replace(
        experiment.training.dit, train_text=False, dtype="bfloat16", remat="full", ema_decay=0.0
    )
    return dataclasses.replace(experiment, model=model, training=dataclasses.replace(experiment.training, dit=stage))


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("v6e:2x2", marks=TPU), pytest.param("h100:4", marks=CUDA)])
def test_two_full_width_blocks_compile(name):
    target = topology(name)
    experiment = small_experiment()
    workload = Workload("train", VideoShape(9, 256, 256, 24.0))
    report = plan(experiment, workload, target, choose_mesh(experiment.mesh, target, workload, experiment.model))
    assert report.fits and report.memory_by_kind["parameters"] > 0.5e9
    assert report.replicated_parameter[1] < 1 << 30 and report.replicated_activation[1] < 1 << 30
    assert report.mfu and 0 < report.mfu < 0.8
    assert jax.devices()[0].platform == "cpu"
