"""Adversarial terms: which parameters each part teaches, when they begin, and what the adaptive weight balances."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_params
from tiny import one_device, save_tiny_model, tiny_release

from ltx_jax.checkpoints.orbax import load_weights
from ltx_jax.data.config import DataConfig
from ltx_jax.data.raw.source import open_source
from ltx_jax.errors import UserError
from ltx_jax.models.audio_vae.discriminator import WaveDiscriminator
from ltx_jax.models.video_vae.discriminator import VideoDiscriminator
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.training import run as runs
from ltx_jax.training.autoencoders import adversarial
from ltx_jax.training.autoencoders.adversarial import AdversarialConfig, adaptive_weight, adversarial_terms
from ltx_jax.training.autoencoders.stage import STATISTICS, vae_stage
from ltx_jax.training.config import AudioVAEStageConfig, TrainingConfig, VideoVAEStageConfig
from ltx_jax.training.loop import run_stage
from ltx_jax.training.metrics import read_metrics
from ltx_jax.training.optimizer import OptimizerConfig
from ltx_jax.training.setting import PARTS, Setting

TRUTH = jax.random.normal(jax.random.key(0), (4, 8))


def judge(params, x):
    return [[jnp.tanh(x * params["scale"]), jnp.sum(x * params["w"], -1)]]


PARAMS = {"w": jnp.arange(8.0) - 3, "scale": jnp.float32(0.7)}


def total(config, params, output, step):
    mse = lambda x: jnp.mean(jnp.square(x - TRUTH))
    return adversarial_terms(judge, params, output, TRUTH, mse, jnp.int32(step), config)[0]


def test_each_term_teaches_its_own_group():
    """The discriminator's gradient is that of the hinge loss alone, the generator's has no share of it."""
    config, output = AdversarialConfig(0.5, feature_weight=0.0), TRUTH * 0.5 + 0.1
    of_params, of_output = jax.grad(lambda p, x: total(config, p, x, 0), argnums=(0, 1))(PARAMS, output)
    hinge = lambda p: (
        0.5 * (jnp.mean(jax.nn.relu(1 - judge(p, TRUTH)[0][-1])) + jnp.mean(jax.nn.relu(1 + judge(p, output)[0][-1])))
    )
    np.testing.assert_allclose(of_params["w"], jax.grad(hinge)(PARAMS)["w"], rtol=1e-6)
    wanted = -PARAMS["w"] / len(TRUTH)  # of minus the mean logit
    np.testing.assert_allclose(
        of_output / jnp.linalg.norm(of_output),
        jnp.tile(wanted, (4, 1)) / jnp.linalg.norm(jnp.tile(wanted, (4, 1))),
        rtol=1e-5,
    )


def test_the_adversary_pushes_as_hard_as_the_reconstruction_times_its_weight():
    mse = lambda x: jnp.mean(jnp.square(x - TRUTH))
    output = TRUTH * 0.5 + 0.1
    size = lambda g: float(jnp.linalg.norm(g))
    for weight in (0.5, 2.0):
        config = AdversarialConfig(weight, feature_weight=0.0)
        push = jax.grad(lambda x, c=config: total(c, PARAMS, x, 0))(output)
        assert size(push) == pytest.approx(weight * size(jax.grad(mse)(output)), rel=1e-4)
    assert float(adaptive_weight(jax.grad(mse)(output), 0 * output)) == 1e4


def test_nothing_happens_before_the_start():
    config = AdversarialConfig(1.0, start=10)
    gradients = jax.grad(lambda p, x: total(config, p, x, 9), argnums=(0, 1))(PARAMS, TRUTH * 0.5)
    assert all(not np.any(np.asarray(g)) for g in jax.tree.leaves(gradients))
    assert np.any(np.asarray(jax.grad(lambda x: total(config, PARAMS, x, 10))(TRUTH * 0.5)))


def test_features_are_matched_towards_the_truth():
    config = AdversarialConfig(1.0, feature_weight=1e6)
    output = TRUTH + 0.1
    step = jax.grad(lambda x: total(config, PARAMS, x, 0))(output)
    assert (np.asarray(step) > 0).all()  # down: towards the truth


def test_a_patch_discriminator_tells_blur_from_edges():
    """A few steps of its hinge loss part sharp squares from blurred ones; logits are of patches in space and time."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    network = VideoDiscriminator(base=8, levels=2)
    y, x = np.mgrid[:32, :32]
    sharp = np.where((np.abs(x - 15) < 8) & (np.abs(y - 15) < 8), 1.0, -1.0)
    soft = np.clip((9 - np.maximum(abs(x - 15), abs(y - 15))) / 6, -1, 1)
    real, fake = (jnp.asarray(np.tile(v, (1, 5, 1, 1))[..., None].repeat(3, -1), jnp.float32) for v in (sharp, soft))
    with jax.set_mesh(mesh):
        params = drawn_params(network, real)
        apply = lambda p, v: network.apply({"params": p}, v)
        assert apply(params, real).shape == (1, 3, 8, 8)
        loss = lambda p: jnp.mean(jax.nn.relu(1 - apply(p, real))) + jnp.mean(jax.nn.relu(1 + apply(p, fake)))
        step = jax.jit(lambda p: jax.tree.map(lambda a, g: a - 0.05 * g, p, jax.grad(loss)(p)))
        before = float(loss(params))
        for _ in range(20):
            params = step(params)
        assert float(loss(params)) < 0.7 * before


def test_wave_discriminators_look_by_period_and_by_resolution():
    network = WaveDiscriminator(base=4, periods=(2, 5), resolutions=((256, 64),))
    wave = jax.random.normal(jax.random.key(0), (2, 2, 1601))
    params = drawn_params(network, wave)
    judged = network.apply({"params": params}, wave)
    assert len(judged) == 3 and all(len(found) == 4 and found[-1].ndim == 3 for found in judged)
    for period, found in zip((2, 5), judged, strict=False):
        assert found[0].shape[2] == period  # columns of one phase each never mix
    other = network.apply({"params": params}, wave.at[:, :, ::5].set(0))[1]
    changed = np.abs(np.asarray(other[0] - judged[1][0])).max((0, 1, 3)) > 0
    assert changed.tolist() == [True, False, False, False, False]


ADAM = OptimizerConfig(learning_rate=1e-3)
BOTH = AdversarialConfig(0.5, start=1, base=4, optimizer=ADAM)
COMMON = {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "log_every": 1, "sample_every": 0, "ema_decay": 0.0,
          "optimizer": ADAM, "statistics_batches": 1, "adversarial": BOTH}  # fmt: skip
STAGES = {"video_vae": VideoVAEStageConfig(**COMMON), "audio_vae": AudioVAEStageConfig(segment=16, **COMMON)}
LESS = {"layers": 1, "periods": (2,), "resolutions": ((256, 64),)}
DATA = DataConfig(frames=5, height=16, width=16, size=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A trained model, as far as --init_from can tell; it has no discriminators."""
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    "name, part",
    [
        ("video_vae", "video_discriminator"),
        pytest.param("audio_vae", "wave_discriminator", marks=pytest.mark.slow),
    ],
)
def test_both_groups_learn_and_resume_bit_for_bit_and_the_model_keeps_one(tmp_path, monkeypatch, model, name, part):
    """Two optimizers in one step and in the checkpoint: two steps and two more are four; the weights lack one group."""
    for kind, less in (("VideoDiscriminator", {"levels": 1}), ("WaveDiscriminator", LESS)):  # less to compile
        monkeypatch.setattr(adversarial, kind, functools.partial(getattr(adversarial, kind), **less))
    training, whole, half = TrainingConfig(**{name: STAGES[name]}), tmp_path / "whole", tmp_path / "half"
    train = lambda folder: runs.train(tiny_release(), training, DATA, one_device(), folder, (name,), init_from=model)
    train(whole)
    shutil.copytree(whole, half)
    for gone in ("checkpoints/4", "weights"):
        shutil.rmtree(half / name / gone)
    (half / name / "finished.json").unlink()
    train(half)

    setting = Setting(tiny_release(), training, DATA, one_device(), tmp_path)
    stage = vae_stage(setting, name, open_source(DATA), None)
    end, again = (run_stage(stage, folder / name) for folder in (whole, half))  # nothing is left to do: it is read
    pairs = zip(jax.tree.leaves(end), jax.tree.leaves(again), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs) and set(end.opt_state) == {part, "rest"}
    kept = load_weights(whole / name / "weights", None)
    assert set(kept) == {*PARTS[name], STATISTICS[name]} == {*end.params, STATISTICS[name]} - {part}

    rows = read_metrics(whole / name / "metrics.jsonl")
    assert "discriminator" not in rows[0] and rows[0][f"grad_norm_{part}"] == 0  # a step of reconstruction alone
    positive = ("discriminator", "adversarial_weight", f"grad_norm_{part}")
    assert all(row[figure] > 0 for row in rows[1:] for figure in positive)


def test_negative_weights_are_refused():
    with pytest.raises(UserError, match="weight"):
        AdversarialConfig(weight=-1.0)
