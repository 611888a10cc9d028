"""Properties of encoder and decoder: causality, shapes, formulations, errors (spec video_vae.md sections 2 to 5)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_params

from ltx_jax.errors import UserError
from ltx_jax.models import latents as statistics
from ltx_jax.models.latents import sample_latents
from ltx_jax.models.video_vae.config import VideoVAEConfig
from ltx_jax.models.video_vae.conv import CausalConv3d
from ltx_jax.models.video_vae.decoder import VideoDecoder, draw_noises, noise_shapes
from ltx_jax.models.video_vae.encoder import VideoEncoder, check_video_shape, crop_frames
from ltx_jax.models.video_vae.layers import depth_to_space, patchify, space_to_depth, unpatchify

TINY = {
    "latent_channels": 4, "patch_size": 2, "timestep_conditioning": False, "decoder_base_channels": 4,
    "encoder_blocks": [["res_x", 1], ["compress_all_res", {}], ["compress_time", {}]],
    "decoder_blocks": [["compress_time", {}], ["res_x", 1], ["compress_all", {"multiplier": 2, "residual": True}]],
}  # fmt: skip
CONFIG = VideoVAEConfig.from_official(TINY)


def _normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_latents_never_see_later_frames(mesh):
    video, module = _normal(0, 1, 13, 4, 8, 3), VideoEncoder(CONFIG)
    params = drawn_params(module, video)
    encode = jax.jit(module.apply)
    whole, _ = encode({"params": params}, video)
    for k in range(3):
        part, _ = encode({"params": params}, video[:, : 4 * k + 1])
        np.testing.assert_allclose(part, whole[:, : k + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 1, 1), (2, 2, 2)])
def test_both_formulations_are_one_function(padding, causal, stride):
    x = _normal(1, 2, 5, 4, 6, 3)
    make = lambda impl: CausalConv3d(5, causal, padding, stride, impl=impl)
    params = drawn_params(make("native"), x)
    native, taps = (make(impl).apply({"params": params}, x) for impl in ("native", "taps"))
    assert native.shape == (2, (5 - 1) // stride[0] + 1, -(-4 // stride[1]), -(-6 // stride[2]), 5)
    np.testing.assert_allclose(taps, native, rtol=1e-5, atol=1e-5)


def test_decoder_shapes_and_noise(mesh):
    noisy = TINY | {"decoder_blocks": [["res_x", {"num_layers": 2, "inject_noise": True}], ["compress_all", {}]]}
    config = VideoVAEConfig.from_official(noisy | {"timestep_conditioning": True})
    module, latents = VideoDecoder(config), _normal(2, 1, 2, 2, 3, 4)
    noises = draw_noises(jax.random.key(0), config, 2, 3)
    assert noise_shapes(config, 2, 3) == [(4, 6)] * 4
    params = drawn_params(module, latents)
    decode = jax.jit(module.apply)
    assert decode({"params": params}, latents, jnp.full((1,), 0.1), noises).shape == (1, 3, 8, 12, 3)
    with pytest.raises(UserError, match="takes noises of the shapes"):
        decode({"params": params}, latents, None, noises[:3])


def test_rearrangements_invert_each_other():
    x = _normal(3, 2, 4, 8, 8, 3)
    np.testing.assert_array_equal(unpatchify(patchify(x, 4), 4), x)
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, (2, 2, 2)), (2, 2, 2)), x)
    assert float(patchify(x, 4)[0, 0, 0, 0, 1]) == float(x[0, 0, 1, 0, 0])  # row offset fastest


def test_statistics_invert_and_check_widths():
    x, values = _normal(4, 1, 2, 2, 2, 4), {"mean": _normal(5, 4), "std": jnp.full(4, 0.5)}
    np.testing.assert_allclose(statistics.denormalize(statistics.normalize(x, values), values), x, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="do not end"):
        statistics.normalize(x[..., :3], values)


def test_sampling_clips_the_log_variance():
    means = jnp.zeros(3)
    drawn = sample_latents(means, jnp.array([-100.0, 0.0, 100.0]), jnp.ones(3))
    np.testing.assert_allclose(drawn, np.exp(0.5 * np.array([-30.0, 0.0, 20.0])), rtol=1e-5)


def test_sizes_that_do_not_fit_are_sentences():
    assert crop_frames(CONFIG, np.zeros((1, 12, 4, 4, 3))).shape[1] == 9
    check_video_shape(CONFIG, 9, 8, 4)
    with pytest.raises(UserError, match="use 9 frames"):
        check_video_shape(CONFIG, 12, 8, 8)
    with pytest.raises(UserError, match="multiple of 4, so use 8 pixels"):
        check_video_shape(CONFIG, 9, 10, 8)
