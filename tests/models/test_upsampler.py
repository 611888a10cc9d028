"""Latent upsamplers: released sizes and names, the forms that no recording has, and files of their own."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_params

from ltx_jax import codec
from ltx_jax.bundle import Bundle, Placed, make_networks
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.checkpoints.safetensors import write_safetensors
from ltx_jax.checkpoints.save import save_bundle
from ltx_jax.errors import UserError
from ltx_jax.models import latents as statistics
from ltx_jax.models.layers import abstract_params
from ltx_jax.models.upsampler import LatentUpsampler, UpsamplerConfig
from ltx_jax.names import to_official
from ltx_jax.names.upsampler import upsampler_names
from ltx_jax.parallel.mesh import MeshConfig, make_mesh

TINY = UpsamplerConfig(in_channels=4, mid_channels=32, num_blocks_per_stage=1)


def _normal(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def _run(config, x, params=None):
    module = LatentUpsampler(config)
    params = drawn_params(module, x) if params is None else params
    return np.asarray(jax.jit(module.apply)({"params": params}, x)), params


@pytest.mark.parametrize(
    "config, tensors, bytes_, resampler",
    [
        (UpsamplerConfig(mid_channels=1024), 72, 995.7e6, {"upsampler.0.weight": (4096, 1024, 3, 3)}),
        (
            UpsamplerConfig(mid_channels=1024, spatial_scale=1.5, rational_resampler=True), 73, 1090e6,
            {"upsampler.conv.weight": (9216, 1024, 3, 3), "upsampler.blur_down.kernel": (1, 1, 5, 5)},
        ),
        (
            UpsamplerConfig(spatial_upsample=False, temporal_upsample=True, spatial_scale=1.0, rational_resampler=True),
            72, 261.9e6, {"upsampler.0.weight": (1024, 512, 3, 3, 3)},
        ),
    ],
)  # fmt: skip
def test_released_sizes_and_names(mesh, config, tensors, bytes_, resampler):
    """Bytes of bfloat16 files and shapes of the specification's table."""
    shapes, _ = abstract_params(LatentUpsampler(config), np.zeros((1, 2, 2, 2, 128), np.float32))
    views = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    named = {name.official: name for name in upsampler_names(config)}
    leaves = jax.tree.leaves(shapes)
    assert len(named) == len(leaves) == tensors
    assert 2 * sum(leaf.size for leaf in leaves) == pytest.approx(bytes_, rel=2e-3)
    official = to_official([named[name] for name in resampler], views)
    assert {name: array.shape for name, array in official.items()} == resampler


@pytest.mark.parametrize(
    "changes, shape",
    [
        ({"rational_resampler": True, "spatial_scale": 0.75}, (3, 3, 4)),
        ({"rational_resampler": True, "spatial_scale": 1.5}, (3, 5, 8)),
        ({"rational_resampler": True, "spatial_scale": 4.0}, (3, 12, 20)),
        ({"temporal_upsample": True}, (5, 6, 10)),
        ({"temporal_upsample": True, "spatial_upsample": False}, (5, 3, 5)),
    ],
)
def test_every_form_has_its_size(mesh, changes, shape):
    config = dataclasses.replace(TINY, **changes)
    out, params = _run(config, _normal(1, 3, 3, 5, 4))
    assert out.shape == (1, *shape, 4) and config.upsampled(3, 3, 5) == shape
    paths = {tuple(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert {name.path for name in upsampler_names(config)} == paths


def test_a_rational_two_is_the_plain_two(mesh):
    x = _normal(1, 2, 3, 4, 4)
    plain, params = _run(TINY, x)
    resampler = {"conv": params["upsampler"]["conv"], "blur": jnp.full((1, 1, 5, 5), jnp.nan)}  # not read
    rational, _ = _run(dataclasses.replace(TINY, rational_resampler=True), x, {**params, "upsampler": resampler})
    np.testing.assert_allclose(rational, plain, rtol=1e-5, atol=1e-5)


def test_two_dims_are_frame_by_frame(mesh):
    x, config = _normal(1, 3, 3, 4, 4), dataclasses.replace(TINY, dims=2)
    whole, params = _run(config, x)
    assert params["initial_conv"]["kernel"].shape == (3, 3, 4, 32)
    alone, _ = _run(config, x[:, 1:2], params)
    np.testing.assert_allclose(whole[:, 1:2], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"spatial_upsample": False}, "does neither"),
        ({"mid_channels": 48}, "multiple of 32"),
        ({"rational_resampler": True, "spatial_scale": 3.0}, "knows the scales"),
        ({"dims": 2, "temporal_upsample": True}, "can only double"),
        ({"_class_name": "AutoencoderKL"}, "a 'AutoencoderKL'"),
    ],
)
def test_mistakes_are_sentences(changes, words):
    with pytest.raises(UserError, match=words):
        UpsamplerConfig.from_official(TINY.to_official() | changes)


def test_its_own_file_beside_a_model(mesh, tmp_path):
    """An upsampler is found by its metadata, saved beside the model, and run as a program on normalised latents."""
    toy = load_bundle("toy")
    config = dataclasses.replace(TINY, in_channels=toy.release.video_vae.latent_channels)
    latents = _normal(1, 2, 2, 2, config.in_channels)
    out, params = _run(config, latents)
    own = tmp_path / "anything.safetensors"
    metadata = {"config": json.dumps(config.to_official())}
    write_safetensors(own, to_official(upsampler_names(config), params), metadata)
    bundle = load_bundle("toy", others=[own])
    assert bundle.release.spatial_upsampler == config and bundle.release.temporal_upsampler is None
    kept = ("spatial_upsampler", "video_statistics")
    save_bundle(Bundle(bundle.release, bundle.params, bundle.tokenizer), tmp_path / "model")
    again = load_bundle(tmp_path / "model")
    assert again.release == bundle.release
    placed = Placed(make_networks(again.release), again.params, make_mesh(MeshConfig(), jax.devices()[:1]))
    shape = jax.ShapeDtypeStruct(latents.shape, latents.dtype)
    loaded = placed.load(codec.make_upsample_program, kept, kept[0], shape)
    values = again.params["video_statistics"]
    result = loaded.run(loaded.weights, statistics.normalize(latents, values))
    np.testing.assert_allclose(result, statistics.normalize(jnp.asarray(out), values), rtol=1e-3, atol=1e-4)
    write_safetensors(own, {}, {"config": json.dumps({"transformer": {}})})
    with pytest.raises(UserError, match="no file of a latent upsampler"):
        load_bundle("toy", others=[own])
