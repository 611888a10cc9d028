"""Sampling with fewer bytes on the device: quantised, streamed from the host, and what a full device is told as."""

import jax
import ml_dtypes
import numpy as np
import pytest

from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.errors import UserError
from ltx_jax.models.storage import HOST, Storage
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.sampler import Sampler

REQUEST = Request(prompts=("a red circle",), seed=1, steps=2)


def sampler(storage=Storage()):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return Sampler(load_bundle("toy", dtype=ml_dtypes.bfloat16), mesh, storage=storage)


def sampled(storage=Storage()):
    """A clip, and the bytes of the transformer's weights in device memory while it was made."""
    model, seen = sampler(storage), []
    before = {id(x) for x in jax.live_arrays()}
    denoise = model._denoise

    def watched(*args):
        state = denoise(*args)
        live = [x for x in jax.live_arrays() if id(x) not in before and x.sharding.memory_kind != HOST]
        weights = {id(x) for x in jax.tree.leaves(model._placed._weights["transformer"])}
        seen.append(sum(x.nbytes for x in live if id(x) in weights))
        return state

    model._denoise = watched
    return model.generate(REQUEST)[0], seen[0], model


@pytest.fixture(scope="module")
def resident():
    return sampled()


def test_layers_that_wait_on_the_host_make_the_same_clip(resident):
    clip, size, _ = resident
    other, smaller, model = sampled(Storage(offload="host"))
    assert np.array_equal(clip.video, other.video) and np.array_equal(clip.audio, other.audio)
    assert smaller < 0.3 * size  # what is not in the blocks
    assert set(model._placed._weights) <= {"transformer", "video_decoder", "video_statistics"}


def test_quantised_weights_take_half_the_device_memory_and_make_nearly_the_same_clip(resident):
    clip, size, _ = resident
    for storage in (Storage("int8"), Storage("fp8", "host")):
        other, smaller, _ = sampled(storage)
        assert smaller < 0.55 * size
        assert np.abs(clip.video.astype(int) - other.video).mean() < 12
        assert not np.array_equal(clip.video, other.video)


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
