"""Tiny transformers with random weights, and random streams for them."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.models.dit.config import DiTConfig
from ltx_jax.models.dit.rope import rotary_tables
from ltx_jax.models.dit.transformer import DiT, example_inputs
from ltx_jax.models.layers import abstract_params
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.streams import Context, Stream

TINY = DiTConfig(
    num_layers=2, num_attention_heads=4, attention_head_dim=8, in_channels=6, out_channels=6, cross_attention_dim=32,
    audio_num_attention_heads=4, audio_attention_head_dim=4, audio_in_channels=5, audio_out_channels=5,
    audio_cross_attention_dim=16, caption_proj_before_connector=True, frequencies_precision="float64",
    av_ca_timestep_scale_multiplier=1000.0, apply_gated_attention=True, cross_attention_adaln=True, ff_bias=False,
    use_keyframes_abs_pos_embedding=True, positional_embedding_theta=100.0,
)  # fmt: skip
OLD = dataclasses.replace(
    TINY, caption_proj_before_connector=False, caption_channels=12, apply_gated_attention=False, ff_bias=True,
    cross_attention_adaln=False, use_keyframes_abs_pos_embedding=False,
)  # fmt: skip


def random_params(config: DiTConfig, seed: int = 0):
    """Weights of the size of initialised ones, but nothing is zero or one: norms, gates and tables matter too."""
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        shapes, _ = abstract_params(DiT(config), *example_inputs(config))
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        scale = shape.shape[-2] ** -0.5 if path[-1].key == "kernel" else 0.2
        offset = 1.0 if path[-1].key in ("q_norm", "k_norm") else 0.0
        return jnp.asarray(offset + scale * rng.standard_normal(shape.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def positions(rng: np.random.Generator, batch: int, axes: int, tokens: int) -> np.ndarray:
    start = rng.integers(0, 16, (batch, axes, tokens)).astype(np.float32)
    return np.stack([start, start + 1], axis=-1)


def random_streams(config: DiTConfig, seed: int = 1, batch: int = 2, video: int = 7, audio: int = 5, text: int = 3):
    """Streams and contexts in the order of `DiT.__call__`: three noise levels in the video, one in the audio."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    tables = rotary_tables(config, positions(rng, batch, 3, video), positions(rng, batch, 1, audio))
    sigma = jnp.asarray(rng.uniform(0.2, 1, batch), jnp.float32)
    levels = jnp.stack([sigma, jnp.zeros(batch), 0.4 * sigma], axis=1)
    v = Stream(
        latent=normal(batch, video, config.in_channels), sigma=sigma, levels=levels,
        level_index=jnp.asarray(rng.integers(0, 3, (batch, video)), jnp.int32), rotary=tables["video"],
        cross_rotary=tables["video_cross"], keyframes=jnp.asarray(rng.random((batch, video)) < 0.3),
    )  # fmt: skip
    a = Stream(
        normal(batch, audio, config.audio_in_channels), sigma, sigma[:, None], tables["audio"],
        cross_rotary=tables["audio_cross"],
    )  # fmt: skip
    widths = [config.stream(m).width for m in ("video", "audio")]
    if not config.caption_proj_before_connector:
        widths = [config.caption_channels] * 2
    return v, a, Context(normal(batch, text, widths[0])), Context(normal(batch, text, widths[1]))


def quick_jit(function, **options):
    """`jax.jit` with the machine code left unoptimised: these sizes spend their time in the compiler."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


@functools.cache
def compiled(config: DiTConfig, dtype):
    def call(params, inputs, keep):
        return DiT(config, dtype=dtype).apply({"params": params}, *inputs, keep)

    return quick_jit(call)


def forward(config: DiTConfig, params, inputs, keep=None, dtype=jnp.float32):
    """Velocities by the compiled transformer; equal configurations and shapes share a program."""
    return compiled(config, dtype)(params, inputs, keep)


@pytest.fixture(scope="session")
def tiny():
    """Configurations and helpers of the tests here; params: of the tiny 2.5 style model."""
    return SimpleNamespace(
        config=TINY, old=OLD, params=random_params(TINY), random_params=random_params, streams=random_streams,
        forward=forward, quick_jit=quick_jit,
    )  # fmt: skip
