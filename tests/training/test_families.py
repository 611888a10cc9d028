"""A family of diffusion is chosen by the config: training draws its levels and asks for its answers, sampling knows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import one_device, save_tiny_model, tiny_release

from ltx_jax.bundle import Networks
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.diffusion.families.network import find_process
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.diffusion.guidance import Guidance
from ltx_jax.diffusion.sample import SamplerState, StreamState, make_plan
from ltx_jax.errors import UserError
from ltx_jax.pipelines.stages import sample_steps
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


@functools.cache
def inputs():
    """Zeros for everything that a step reads: parameters, what is frozen, a batch."""
    arguments = make_dit_program(tiny_release(), STAGE, SHAPE, one_device()).arguments
    needed = (arguments["state"].params, arguments["frozen"], arguments["batch"])
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), needed)


def first_loss(process, value=0.0, data=0.0, **options):
    """Video loss of clips that are `data` everywhere with a network that answers `value`; latent and level it read."""
    stage, network = dataclasses.replace(STAGE, process=process, **options), Constant(value)
    objective = make_dit_objective(tiny_release(), stage, SHAPE, one_device(), 0)
    networks = objective.networks.replaced(transformer=network, connectors=network)
    objective = dataclasses.replace(objective, networks=networks)
    params, frozen, batch = inputs()

    def step(video):
        _, metrics = objective(params, frozen, batch | {"video": video}, jnp.int32(0))
        return metrics["loss_video"], network.read[0].latent, network.read[0].sigma

    with jax.set_mesh(one_device()):
        loss, latent, sigma = jax.jit(step)(batch["video"] + np.float32(data))
    return float(loss), np.asarray(latent), np.asarray(sigma)


def test_what_is_asked_for_follows_the_process():
    loss, *_ = first_loss("ddpm:x0", value=2.0, data=2.0)
    assert loss == pytest.approx(0, abs=1e-6)
    loss, latent, sigma = first_loss("ddpm:epsilon")
    assert loss == pytest.approx(1, abs=0.02)
    spread = sigma / np.hypot(sigma, 1 - sigma)  # read on the path that preserves the variance
    np.testing.assert_allclose(np.std(latent / spread[:, None, None]), 1, atol=0.02)


def test_the_loss_is_weighed_by_the_noise():
    loss, _, sigma = first_loss("ddpm:x0", value=3.0, data=2.0, weighting="min_snr")
    assert loss == pytest.approx(np.mean(np.minimum(((1 - sigma) / sigma) ** 2, 5)), rel=1e-4)


def test_levels_are_drawn_as_the_process_says():
    drawn = {name: first_loss(name)[2] for name in (None, "ddpm_cosine")}
    table = np.float32(find_process("ddpm_cosine").levels.table)
    assert np.all(np.isin(drawn["ddpm_cosine"], table)) and not np.any(np.isin(drawn[None], table))


def test_the_model_remembers_what_it_was_trained_with(tmp_path):
    release = dataclasses.replace(STAGE, process="edm:x0").released(tiny_release())
    assert STAGE.released(release) == release  # training that names none goes on with the model's
    assert load_bundle(save_tiny_model(tmp_path, of=release)).release.process == "edm:x0"


def test_the_sampler_reads_the_data_of_a_model_s_process():
    """A network that says x0 = 0.5 everywhere leads there in one step, and reads noise on its own path."""
    release, network = dataclasses.replace(tiny_release(), process="ddpm:x0"), Constant(0.5)
    sigma, nowhere = jnp.asarray([0.5]), Rotary((), (), jnp.zeros((1, 1, 0), jnp.int32))
    stream = Stream(jnp.ones((1, 3, 2)), sigma, jnp.ones((1, 1)), nowhere)
    track = StreamState(stream, jnp.ones((1, 1)), stream.latent)
    networks = Networks(release, {"transformer": network}, jnp.float32)
    contexts = {"positive": (jnp.zeros((1, 1, 1)),) * 2}
    state, plan = SamplerState(track, track), make_plan(np.array([0.5, 0.0]), Guidance(), Guidance())
    end = sample_steps(networks, {"transformer": {}}, contexts, state, plan, 0, 1)
    np.testing.assert_allclose([end.video.latent, end.audio.latent], 0.5, rtol=1e-6)


def test_an_unknown_process_is_refused_before_anything_is_made():
    with pytest.raises(UserError, match="no process 'dpm'; choose one of flow"):
        DiTStageConfig(process="dpm")
    with pytest.raises(UserError, match="no process 'dpm'"):
        dataclasses.replace(tiny_release(), process="dpm")
