"""Sampling with fewer bytes on the device: quantised, streamed from the host, and what a full device is told as."""

import jax
import ml_dtypes
import numpy as np
import pytest
import small_configs

from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.errors import UserError
from ltx_jax.models.storage import HOST, Storage
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.sampler import Sampler

REQUEST = Request(prompts=("a red circle",), seed=1, steps=2, cfg=1, audio_cfg=1)


def sampler(storage=Storage()):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return Sampler(load_bundle("toy", dtype=ml_dtypes.bfloat16), mesh, storage=storage)


class Sampled(Exception):
    """Ends a request before it is decoded."""


def sampled(storage=Storage()):
    """The latents of a clip, and the bytes of the transformer's weights in device memory when they were made."""
    model, seen = sampler(storage), []
    before = {id(x) for x in jax.live_arrays()}
    denoise = model._denoise

    def watched(*args):
        state = denoise(*args)
        live = [x for x in jax.live_arrays() if id(x) not in before and x.sharding.memory_kind != HOST]
        weights = {id(x) for x in jax.tree.leaves(model._placed._weights["transformer"])}
        seen.append(sum(x.nbytes for x in live if id(x) in weights))
        seen.append([np.asarray(track.stream.latent) for track in (state.video, state.audio)])
        raise Sampled

    model._denoise = watched
    with pytest.raises(Sampled):
        model.generate(REQUEST)
    return seen[1], seen[0], model


@pytest.fixture(scope="module")
def resident():
    return sampled()


def test_layers_that_wait_on_the_host_make_the_same_clip(resident):
    latents, size, _ = resident
    found, smaller, model = sampled(Storage(offload="host"))
    jax.tree.map(np.testing.assert_array_equal, found, latents)
    assert smaller < 0.3 * size  # what is not in the blocks
    assert set(model._placed._weights) == {"transformer"}  # the text encoder has left


def test_quantised_weights_take_half_the_device_memory_and_make_nearly_the_same_clip(resident):
    latents, size, _ = resident
    for storage in (Storage("int8"), Storage("fp8", "host")):
        found, smaller, _ = sampled(storage)
        assert smaller < 0.55 * size
        for ours, theirs in zip(found, latents, strict=True):
            assert 0 < np.linalg.norm(ours - theirs) < 0.1 * np.linalg.norm(theirs)


def test_out_of_device_memory_is_one_sentence_with_the_bytes_and_what_helps(monkeypatch):
    model = sampler()

    def full(*args):
        model._placed.weights(("transformer",))
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")

    monkeypatch.setattr(model, "_denoise", full)
    with pytest.raises(UserError, match=r"out of memory.*0\.0\d* GB.*--quantization=int8.*--offload=host"):
        model.generate(REQUEST)
    monkeypatch.setattr(model, "_denoise", lambda *args: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("INTERNAL")))
    with pytest.raises(jax.errors.JaxRuntimeError):
        model.generate(REQUEST)


@pytest.mark.slow
def test_a_small_2_5_with_its_diffusion_decoder_samples_in_few_bytes(tmp_path):
    small_configs.save_model("ltx2_5_22b.py", tmp_path / "ltx-2.5.safetensors")
    bundle = load_bundle(tmp_path / "ltx-2.5.safetensors")
    assert bundle.release.video_vae.diffusion is not None
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    model = Sampler(bundle, mesh, storage=Storage("int8_dynamic", "host"))
    (clip,) = model.generate(Request(prompts=("a red circle",), seed=1, steps=1))
    assert clip.video.shape == (9, 64, 96, 3) and clip.video.std() > 0
    assert np.isfinite(clip.audio).all() and clip.metadata["config"].count('"quantization": "int8_dynamic"') == 1
