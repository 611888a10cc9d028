"""Clips decoded in tiles: by a diffusion decoder too, whose tiles see one noise."""

import dataclasses

import jax
import numpy as np
import pytest
from drawn import drawn

import ltx_jax
from ltx_jax import codec
from ltx_jax.bundle import Bundle, Placed, abstract_parts, initial_parts, make_networks
from ltx_jax.diffusion.geometry import VideoShape, patchify_video
from ltx_jax.errors import UserError
from ltx_jax.models.tiling import Tiling
from ltx_jax.models.video_vae.diffusion_config import DiffusionDecoderConfig
from ltx_jax.models.video_vae.diffusion_tiling import automatic_tiling
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.pipelines import decoding
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.sampler import Sampler
from ltx_jax.releases import release
from ltx_jax.training.autoencoders.objectives import check_video_stage
from ltx_jax.training.config import VideoVAEStageConfig

SMALL = DiffusionDecoderConfig(
    in_channels=32, head_dim=16, stage_channels=(32, 16, 16), stage_depths=(1, 1, 2), stage_kernels=((1, 1, 1),) * 3,
    upsamples=(((2, 1, 1), 2), ((2, 2, 2), 1)), stage5_kernel=(1, 1, 1), t_emb_dim=16, timestep_scale_multiplier=1000.0,
    default_num_inference_steps=2, model_output_type="x0",
)  # fmt: skip
RELEASED = release("ltx2_5_22b").video_vae.diffusion


def _toy_with(config):
    """The toy's release with a diffusion decoder of the same factors, and random parameters of it."""
    toy = release("toy")
    vae = dataclasses.replace(toy.video_vae, class_name="CausalDiffusionVAE", decoder_blocks=(), diffusion=config)
    changed = dataclasses.replace(toy, video_vae=vae)
    assert config.factors == toy.video_vae.scale_factors
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        shapes, _ = abstract_parts(make_networks(changed), ("video_decoder",))
    return changed, drawn(shapes), mesh


@pytest.mark.parametrize("tiling", [Tiling("size", (8, 0), None, (16, 0)), Tiling("count", (3, 1), (2, 1), None)])
def test_tiles_of_a_network_that_sees_one_cell_are_the_whole(tiling):
    """So what differs could only be the noise, the frames that tiles show, or how they are put together."""
    changed, decoder, mesh = _toy_with(SMALL)
    statistics = {"video_statistics": {"mean": np.full(32, 0.5, np.float32), "std": np.full(32, 2, np.float32)}}
    placed = Placed(make_networks(changed), decoder | statistics, mesh)
    latents = np.random.default_rng(0).standard_normal((1, 5, 3, 4, 32)).astype(np.float32)
    key = np.array([[3, 7]], np.uint32)
    tokens = patchify_video(latents)
    whole = placed.load(codec.make_decode_video_program, codec.VIDEO_DECODER, (5, 3, 4), decoding._like(tokens))
    run = lambda make, *arguments, inputs: placed.load(make, codec.VIDEO_DECODER, *arguments)(*inputs)
    pieces = list(decoding.decode_pieces(placed.networks, run, latents, key, tiling))
    assert len(pieces) > 1
    difference = np.concatenate(pieces).astype(int) - np.asarray(whole(tokens, key))[0]
    assert difference.shape == (17, 24, 32, 3) and np.abs(difference).max() <= 1
    other = np.asarray(whole(tokens, key + 1))[0].astype(int)
    assert np.abs(other - np.concatenate(pieces)).mean() > 0.1


@pytest.mark.slow
def test_a_model_with_a_diffusion_decoder_samples_with_it(monkeypatch):
    changed, _, mesh = _toy_with(dataclasses.replace(SMALL, stage5_kernel=(3, 3, 3)))
    with jax.set_mesh(mesh):  # initial values: norms of about 1, as trained ones
        decoder = jax.jit(lambda: initial_parts(make_networks(changed), ("video_decoder",), 0))()
    toy = ltx_jax.load("toy").bundle
    bundle = Bundle(changed, {**toy.params, **decoder}, toy.tokenizer)
    request = Request(("a red circle", "a blue square"), seed=3, steps=1, cfg=1.0)
    sampler = Sampler(bundle, mesh)
    first, second = sampler.generate(request)
    assert first.video.shape == (17, 32, 32, 3) and first.video.std() > 0
    (again,) = sampler.generate(dataclasses.replace(request, prompts=request.prompts[:1]))
    apart = lambda clip: np.abs(clip.video.astype(int) - first.video).mean()
    assert apart(again) < 0.1 < 10 < apart(second)  # noise belongs to the clip, not to its batch
    monkeypatch.setattr(decoding, "USABLE", 1_300_000)
    shape = VideoShape(17, 32, 96, 8.0)
    assert decoding.tiling_of(shape, changed.video_vae) is not None
    tiled = sampler.generate(dataclasses.replace(request, width=96))[0]
    assert tiled.video.shape == (17, 32, 96, 3) and tiled.video.std() > 0
    with jax.set_mesh(mesh):
        tokens = jax.ShapeDtypeStruct((1, 240, 32), np.float32, sharding=jax.NamedSharding(mesh, jax.P()))
        planned = decoding.decode_programs(sampler.networks, shape, tokens, mesh)
    assert list(planned) == ["video decoder, up to its tiles", "video decoder, of one tile"]


def test_a_diffusion_decoder_is_not_trained():
    with pytest.raises(UserError, match="cannot be trained here"):
        check_video_stage(release("ltx2_5_22b"), VideoVAEStageConfig(), 9)


def test_automatic_tiles():
    """Where all fits nothing is cut; else what computes least twice; and too little memory is a sentence."""
    assert automatic_tiling(RELEASED, (121, 512, 768), 64 << 30, 4096) is None
    found = automatic_tiling(RELEASED, (121, 512, 768), 8 << 30, 4096)
    frames, height, width = found.frames, found.height, found.width
    assert frames is None and height is None and width is not None and width[1] == 160
    assert 128 * 128 * (width[0] // 4) * 4096 <= 8 << 30
    with pytest.raises(UserError, match="80 x 320 x 320"):
        automatic_tiling(RELEASED, (121, 512, 768), 1 << 30, 4096)


def test_a_clip_that_is_no_number_is_refused():
    latents, sounds = np.zeros((1, 4, 3), np.float32), np.zeros((1, 2, 8), np.float32)
    decoding.check_finite(latents, sounds)
    for broken in (latents, sounds):
        broken[0, 1, 2] = np.nan
        with pytest.raises(UserError, match="NaN"):
            decoding.check_finite(latents, sounds)
        broken[0, 1, 2] = 0
