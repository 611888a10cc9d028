"""Released configurations word for word: sizes, names and round trips (spec video_vae.md sections 1, 10)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.layers import abstract_params
from ltx_jax.models.video_vae.config import VideoVAEConfig
from ltx_jax.models.video_vae.decoder import VideoDecoder
from ltx_jax.models.video_vae.diffusion_decoder import DiffusionVideoDecoder
from ltx_jax.models.video_vae.encoder import VideoEncoder
from ltx_jax.names import to_official
from ltx_jax.names.video_vae import video_decoder_names, video_encoder_names


def _res(layers):
    return ["res_x", {"num_layers": layers}]


def _by(name, multiplier=2, **more):
    return [name, {"multiplier": multiplier, **more}]


COMMON = {
    "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128,
    "patch_size": 4, "norm_layer": "pixel_norm", "latent_log_var": "uniform", "causal_decoder": False,
    "timestep_conditioning": False, "scaling_factor": 1.0, "use_quant_conv": False, "normalize_latent_channels": False,
}  # fmt: skip
ENCODER_2_3 = [
    _res(4), _by("compress_space_res"), _res(6), _by("compress_time_res"), _res(4), _by("compress_all_res"), _res(2),
    _by("compress_all_res", 1), _res(2),
]  # fmt: skip
LTX_2_0 = COMMON | {
    "encoder_blocks": [
        _res(4), _by("compress_space_res"), _res(6), _by("compress_time_res"), _res(6), _by("compress_all_res"),
        _res(2), _by("compress_all_res"), _res(2),
    ],
    "decoder_blocks": [["res_x", {"num_layers": 5, "inject_noise": False}], _by("compress_all", residual=True)] * 3
    + [["res_x", {"num_layers": 5, "inject_noise": False}]],
}  # fmt: skip
LTX_2_3 = COMMON | {
    "spatial_padding_mode": "zeros", "decoder_base_channels": 128, "encoder_base_channels": 128,
    "encoder_blocks": ENCODER_2_3,
    "decoder_blocks": [
        _res(4), _by("compress_space"), _res(6), _by("compress_time"), _res(4), _by("compress_all", 1), _res(2),
        _by("compress_all"), _res(2),
    ],
}  # fmt: skip
LTX_2_5 = {
    "_class_name": "CausalDiffusionVAE", "dims": 3, "model_output_type": "x0", "spatial_padding_mode": "reflect",
    "encoder": {
        "_class_name": "Encoder", "dims": 3, "in_channels": 3, "out_channels": 128, "blocks": ENCODER_2_3,
        "patch_size": 4, "latent_log_var": "constant", "latent_log_var_value": -7.824046010856292,
        "norm_layer": "pixel_norm", "base_channels": 128, "spatial_padding_mode": "zeros",
    },
    "decoder": {
        "_class_name": "NADiffusionDecoder", "in_channels": 128, "out_channels": 3, "patch_size": 4, "head_dim": 64,
        "stage_channels": [2048, 1024, 512, 512, 256], "stage_depths": [4, 6, 4, 2, 8],
        "stage_kernels": [[3, 7, 7], [3, 7, 7], [3, 5, 5], [3, 5, 5], [11, 11, 11]],
        "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 2]],
        "stage5_kernel": [11, 11, 11], "resampler_kind": "linear", "spatial_padding_mode": "zeros",
        "timestep_scale_multiplier": 1000.0, "default_num_inference_steps": 1,
    },
}  # fmt: skip


def _leaves(tree):
    return {tuple(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _encoder_shapes(config):
    return abstract_params(VideoEncoder(config), jnp.zeros((1, 1, 32, 32, 3)))


def _decoder_shapes(config):
    return abstract_params(VideoDecoder(config), jnp.zeros((1, 1, 2, 2, 128)))


@pytest.mark.parametrize(
    "mapping, shapes, names, count, tensors",
    [
        (LTX_2_0, _encoder_shapes, video_encoder_names, 694_098_881, 92),
        (LTX_2_0, _decoder_shapes, video_decoder_names, 528_380_720, 90),
        (LTX_2_3, _encoder_shapes, video_encoder_names, 318_936_897, 84),
        (LTX_2_3, _decoder_shapes, video_decoder_names, 407_169_072, 84),
        (LTX_2_5, _encoder_shapes, video_encoder_names, 318_936_897, 84),
    ],
)
def test_released_sizes_and_names(mesh, mapping, shapes, names, count, tensors):
    config = VideoVAEConfig.from_official(mapping)
    tree, axes = shapes(config)
    leaves = _leaves(tree)
    assert sum(leaf.size for leaf in leaves.values()) == count
    listed = names(config)
    assert {name.path for name in listed} == set(leaves) and len(listed) == len(leaves) == tensors
    assert axes["conv_in"]["kernel"] == ("kernel", "kernel", "kernel", "conv_in", "conv_out")


def test_key_table_of_the_releases():
    encoder = {n.official for n in video_encoder_names(VideoVAEConfig.from_official(LTX_2_3))}
    decoder = {n.official for n in video_decoder_names(VideoVAEConfig.from_official(LTX_2_3))}
    assert {"conv_in.conv.weight", "down_blocks.2.res_blocks.5.conv2.conv.bias", "conv_out.conv.bias"} <= encoder
    assert {"down_blocks.7.conv.conv.weight", "down_blocks.8.res_blocks.1.conv1.conv.weight"} <= encoder
    assert {"up_blocks.7.conv.conv.weight", "up_blocks.8.res_blocks.3.conv2.conv.bias"} <= decoder


def test_the_diffusion_decoder_of_2_5(mesh):
    """Tensors, parameters and shapes of the specification's table; sizes that follow from its windows."""
    config = VideoVAEConfig.from_official(LTX_2_5)
    diffusion = config.diffusion
    noise = np.zeros((1, *diffusion.canvas((1, 1, 1)), 3), np.float32)
    shapes, _ = abstract_params(DiffusionVideoDecoder(diffusion), np.zeros((1, 1, 1, 1, 128), np.float32), noise)
    leaves, names = _leaves(shapes), video_decoder_names(config)
    assert {name.path for name in names} == set(leaves)
    assert sum(leaf.size for leaf in leaves.values()) == 417_133_616
    assert sum(len(name.officials()) for name in names) == 310 - 1  # type_emb is not read
    official = to_official(names, jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes))
    listed = {
        "conv_in.weight": (2048, 128), "det_stages.1.5.attn.qkv.weight": (3072, 1024),
        "det_stages.3.1.mlp.w_down.weight": (512, 2048), "upsamples.0.proj.weight": (4096, 2048),
        "upsamples.3.proj.bias": (2048,), "t_embedder.mlp.0.weight": (384, 256), "conv_in_x_t.weight": (256, 48),
        "shared_adaln.proj.weight": (1792, 384), "diff_blocks.7.context_proj.weight": (256, 256),
        "diff_blocks.0.scale_shift_table": (7, 256), "diff_blocks.3.attn.q_norm.weight": (64,),
        "norm_out.weight": (256,), "conv_out.weight": (48, 256),
    }  # fmt: skip
    assert {name: official[name].shape for name in listed} == listed
    assert diffusion.floor == (3, 7, 7) and diffusion.ghosts == 2 and diffusion.factors == (8, 32, 32)
    assert diffusion.tile_overlap == (40, 160, 160) and diffusion.least_tile == (6, 6, 6)


def test_absent_fields_of_the_diffusion_decoder():
    nested = {"_class_name": "CausalDiffusionVAE", "encoder": {}, "decoder": {"na_head_dim": 32}}
    diffusion = VideoVAEConfig.from_official(nested).diffusion
    assert (diffusion.head_dim, diffusion.model_output_type, diffusion.default_num_inference_steps) == (32, "v", 2)
    assert diffusion.stage_channels == (1024, 512, 256, 256, 128) and diffusion.timestep_scale_multiplier == 1.0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"stage_depths": [4, 6, 4, 2]}, "as many stage_channels"),
        ({"stage_channels": [2048, 1024, 512, 512, 512]}, "divides 512 channels by 2"),
        ({"stage5_channels": 96}, "no heads of 64"),
        ({"head_dim": 12}, "multiple of 8"),
        ({"in_channels": 64}, "reads 64 channels"),
        ({"stage_kernel": []}, "did you mean 'stage_kernels'"),
    ],
)
def test_mistakes_in_a_diffusion_decoder_are_sentences(change, words):
    with pytest.raises(UserError, match=words):
        VideoVAEConfig.from_official(LTX_2_5 | {"decoder": LTX_2_5["decoder"] | change})


@pytest.mark.parametrize("mapping", [LTX_2_0, LTX_2_3, LTX_2_5])
def test_round_trip_and_geometry(mapping):
    config = VideoVAEConfig.from_official(mapping)
    assert VideoVAEConfig.from_official(config.to_official()) == config
    assert config.scale_factors == config.decoder_factors == (8, 32, 32)
    assert hash(config) == hash(VideoVAEConfig.from_official(config.to_official()))


def test_padding_of_each_half():
    old, new, nested = (VideoVAEConfig.from_official(m) for m in (LTX_2_0, LTX_2_3, LTX_2_5))
    assert (old.encoder_padding, old.decoder_padding) == ("zeros", "reflect")
    assert (new.encoder_padding, new.decoder_padding) == ("zeros", "zeros")
    assert nested.encoder_padding == "zeros"


def test_int_parameters_mean_layers():
    config = VideoVAEConfig.from_official({"encoder_blocks": [["res_x", 3]]})
    assert config.encoder_blocks[0].num_layers == 3


@pytest.mark.parametrize(
    "change, words",
    [
        ({"encoder_blocks": [["res_z", {}]]}, "knows no block 'res_z'"),
        ({"encoder_blocks": [["res_x", {"layers": 2}]]}, "Unknown key"),
        ({"encoder_blocks": ["res_x"]}, "must be a pair"),
        ({"decoder_blocks": [["res_x_y", {"inject_noise": True}]]}, "cannot inject noise"),
        ({"latent_log_var": "none"}, "without a log-variance"),
        ({"latent_channels": 3, "encoder_blocks": [["compress_all_res", {}]]}, "cannot turn 3 into 6"),
        ({"dims": 2}, "dims 3"),
    ],
)
def test_mistakes_are_sentences(change, words):
    with pytest.raises(UserError, match=words):
        VideoVAEConfig.from_official(COMMON | change)
