"""Encoder, decoder and statistics: sizes, causality, sharding, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.audio_vae.config import AudioVAEConfig
from ltx_jax.models.audio_vae.decoder import AudioDecoder
from ltx_jax.models.audio_vae.encoder import AudioEncoder
from ltx_jax.models.audio_vae.statistics import denormalize, fit_length, normalize
from ltx_jax.models.layers import abstract_params
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.rules import param_shardings

TINY = AudioVAEConfig(
    ch=4, num_res_blocks=1, attn_resolutions=(), z_channels=1, mel_bins=16, mid_block_add_attention=False
)
KEY = jax.random.key(0)


def noise(*shape):
    return jax.random.normal(jax.random.key(1), shape)


@pytest.mark.parametrize("frames, latents", [(1, 1), (4, 1), (5, 2), (23, 6)])
def test_four_mel_frames_are_a_latent_rounded_up(mesh, frames, latents):
    module, mel = AudioEncoder(TINY), jax.ShapeDtypeStruct((2, frames, 16, 2), jnp.float32)
    mean, log_variance = jax.eval_shape(lambda k, x: module.init_with_output(k, x)[0], KEY, mel)
    assert mean.shape == log_variance.shape == (2, latents, 4, 1)


@pytest.mark.parametrize("axis", ["height", "width", "width-compatibility", "none"])
def test_latent_bins_follow_from_the_config(mesh, axis):
    config = AudioVAEConfig(ch=4, ch_mult=(1, 1, 1), num_res_blocks=1, z_channels=1, mel_bins=11, causality_axis=axis)
    mel = jax.ShapeDtypeStruct((1, 8, 11, 2), jnp.float32)
    mean, _ = jax.eval_shape(lambda k, x: AudioEncoder(config).init_with_output(k, x)[0], KEY, mel)
    assert mean.shape[2] == config.latent_bins


def test_encoder_sees_no_future(mesh, initialise):
    module, mel = AudioEncoder(TINY), noise(1, 17, 16, 2)
    params = initialise(module, mel)
    encode = jax.jit(lambda x: module.apply({"params": params}, x)[0])
    changed = encode(mel.at[:, 9:].add(1.0)) - encode(mel)
    np.testing.assert_array_equal(changed[:, :3], 0)  # latent i covers mel frames 4 i - 3 to 4 i
    assert jnp.abs(changed[:, 3:]).min(axis=(0, 2, 3)).max() > 0


def test_decoder_sees_no_future_and_one_latent_is_one_frame(mesh, initialise):
    module, latents = AudioDecoder(TINY), noise(1, 5, 4, 1)
    params = initialise(module, latents)
    decode = jax.jit(lambda z: module.apply({"params": params}, z))
    whole = decode(latents)
    assert whole.shape == (1, 17, 16, 2)
    np.testing.assert_allclose(decode(latents[:, :3]), whole[:, :9], atol=1e-5)
    assert decode(latents[:, :1]).shape == (1, 1, 16, 2)


def test_pooling_replaces_convolutions_without_resamp_with_conv(mesh):
    config = AudioVAEConfig(ch=4, ch_mult=(1, 1), num_res_blocks=1, mel_bins=8, z_channels=1, causality_axis="none",
                            resamp_with_conv=False, attn_resolutions=())  # fmt: skip
    shapes, _ = abstract_params(AudioEncoder(config), jnp.zeros((1, 4, 8, 2)))
    assert "downsample_0" not in shapes


def test_sharded_parameters_and_batch_give_the_same_latents(initialise):
    module, mel = AudioEncoder(TINY), noise(4, 9, 16, 2)
    encode = jax.jit(lambda p, x: module.apply({"params": p}, x)[0])
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        params = initialise(module, mel)
        alone = np.asarray(encode(params, mel))
    mesh = make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])
    with jax.set_mesh(mesh):
        shapes, axes = abstract_params(module, np.zeros(mel.shape, np.float32))
        shared = jax.device_put(jax.tree.map(np.asarray, params), param_shardings(axes, shapes, mesh))
        np.testing.assert_allclose(np.asarray(encode(shared, np.asarray(mel))), alone, atol=1e-5)


def test_statistics_apply_in_token_order_and_invert():
    z, f = 2, 3
    statistics = {"mean": jnp.arange(6.0), "std": jnp.arange(1.0, 7.0)}
    latents = noise(2, 4, f, z)
    out = normalize(latents, statistics)
    np.testing.assert_allclose(out[:, :, 2, 1], (latents[:, :, 2, 1] - 5) / 6, rtol=1e-5)  # feature z * f + bin
    np.testing.assert_allclose(denormalize(out, statistics), latents, atol=1e-5)
    with pytest.raises(UserError, match="statistics"):
        normalize(latents[..., :1], statistics)


def test_fit_length_cuts_or_fills_with_zeros():
    latents = jnp.ones((1, 3, 2, 2))
    assert fit_length(latents, 2).shape[1] == 2
    np.testing.assert_array_equal(fit_length(latents, 5).sum(axis=(0, 2, 3)), [4, 4, 4, 0, 0])


def test_a_mono_mel_is_refused(mesh):
    with pytest.raises(UserError, match="mel spectrogram"):
        AudioEncoder(TINY).init(KEY, jnp.zeros((1, 8, 16, 1)))
    with pytest.raises(UserError, match="audio latents"):
        AudioDecoder(TINY).init(KEY, jnp.zeros((1, 8, 4, 2)))
