"""A family of diffusion is chosen by the config: training draws its levels and asks for its answers, sampling knows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import save_tiny_model, tiny_release

from ltx_jax.bundle import Networks
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.diffusion.families.network import find_process
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.diffusion.sample import SamplingPlan
from ltx_jax.errors import UserError
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.pipelines.stages import velocity_predictor
from ltx_jax.streams import Rotary, Stream
from ltx_jax.training.config import DiTStageConfig
from ltx_jax.training.dit.objective import make_dit_objective, make_dit_program
from ltx_jax.training.lora import LoRAConfig

SHAPE = VideoShape(5, 16, 16, 8.0)
STAGE = DiTStageConfig(batch_size=64, lora=LoRAConfig(rank=2), first_frame_probability=0.0)


class Constant:
    """A network that answers one number everywhere, and keeps what it read."""

    def __init__(self, value):
        self.value, self.read = value, None

    def apply(self, variables, *inputs, method=None, keep=None):
        if method is not None:
            return None, None
        self.read = inputs[:2]
        return [jnp.full_like(stream.latent, self.value) for stream in self.read]


def first_loss(process, value=0.0, data=0.0, **options):
    """Video loss of clips that are `data` everywhere with a network that answers `value`, and what it read."""
    stage, mesh = dataclasses.replace(STAGE, process=process, **options), make_mesh(MeshConfig(), jax.devices()[:1])
    objective, network = make_dit_objective(tiny_release(), stage, SHAPE, mesh, 0), Constant(value)
    networks = objective.networks.replaced(transformer=network, connectors=network)
    objective = dataclasses.replace(objective, networks=networks)
    arguments = make_dit_program(tiny_release(), stage, SHAPE, mesh).arguments
    zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
    batch = zeros(arguments["batch"])
    batch["video"] = batch["video"] + data
    with jax.set_mesh(mesh):
        params, frozen = zeros(arguments["state"].params), zeros(arguments["frozen"])
        _, metrics = objective(params, frozen, batch, jnp.int32(0))
    assert network.read is not None
    return float(metrics["loss_video"]), network.read[0]


def test_what_is_asked_for_follows_the_process():
    loss, read = first_loss("ddpm:x0", value=2.0, data=2.0)
    assert loss == pytest.approx(0, abs=1e-6)
    loss, read = first_loss("ddpm:epsilon")
    assert loss == pytest.approx(1, abs=0.02)
    noise = read.latent / np.sin(np.arctan2(*_levels(read)))[:, None, None]
    np.testing.assert_allclose(np.std(noise), 1, atol=0.02)  # read on the path that preserves the variance
    loss, _ = first_loss("ddpm:x0", value=3.0, data=2.0, weighting="min_snr")
    assert loss == pytest.approx(np.mean(np.minimum(_snr(first_loss("ddpm:x0")[1]), 5)), rel=1e-4)


def _levels(read):
    return np.asarray(read.sigma), 1 - np.asarray(read.sigma)


def _snr(read):
    s, a = _levels(read)
    return (a / s) ** 2


def test_levels_are_drawn_as_the_process_says():
    drawn = {name: np.asarray(first_loss(name)[1].sigma) for name in (None, "ddpm_cosine", "ve")}
    assert len({tuple(sigma) for sigma in drawn.values()}) == 3
    table = np.float32(find_process("ddpm_cosine").levels.table)
    assert np.all(np.isin(drawn["ddpm_cosine"], table))


def test_the_model_remembers_what_it_was_trained_with(tmp_path):
    release = dataclasses.replace(STAGE, process="edm:x0").released(tiny_release())
    assert STAGE.released(release) == release  # training that names none goes on with the model's
    assert load_bundle(save_tiny_model(tmp_path, of=release)).release.process == "edm:x0"


def test_the_sampler_reads_the_velocity_of_a_model_s_process():
    release = dataclasses.replace(tiny_release(), process="ddpm:x0")
    network = Constant(0.5)
    plan = SamplingPlan(jnp.ones(2))
    contexts = {"positive": (jnp.zeros((1, 1, 1)),) * 2}
    predict = velocity_predictor(
        Networks(release, {"transformer": network}, jnp.float32), {"transformer": {}}, contexts, plan
    )
    sigma, rotary = jnp.asarray([0.5]), Rotary((), (), jnp.zeros((1, 1, 0), jnp.int32))
    stream = Stream(jnp.ones((1, 3, 2)), sigma, sigma[:, None], rotary)
    video, audio = predict(stream, stream, ("cond",))
    np.testing.assert_allclose([video, audio], (1 - 0.5) / 0.5, rtol=1e-6)
    assert network.read is not None
    np.testing.assert_allclose(network.read[0].latent, 2**0.5, rtol=1e-6)


def test_an_unknown_process_is_refused_before_anything_is_made():
    with pytest.raises(UserError, match="no process 'dpm'; choose one of flow"):
        DiTStageConfig(process="dpm")
    with pytest.raises(UserError, match="no process 'dpm'"):
        dataclasses.replace(tiny_release(), process="dpm")
