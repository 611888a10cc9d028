"""Kernels in a byte a number: what they say is near the original, and what `Linear` makes of them is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.bundle import abstract_weights, networks_on
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.errors import UserError
from ltx_jax.models.layers import Linear
from ltx_jax.models.quantized import KINDS, Quantized, quantize
from ltx_jax.models.storage import QUANTIZED, Storage
from ltx_jax.parallel.mesh import MeshConfig, make_mesh


def kernel(*shape, seed=0):
    """Channels of very different sizes, one of them zero."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.integers(-4, 3, shape[-1])
    sizes[0] = 0
    return (rng.standard_normal(shape) * sizes).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_every_channel_keeps_its_size(kind):
    """int8: half a step of 127 at most; fp8: half of the last of three bits, or of its smallest number."""
    w = kernel(2, 64, 48)
    q = quantize(jnp.asarray(w), kind)
    assert q.values.dtype.itemsize == 1 and q.scale.shape == (2, 48)
    top = np.abs(w).max(axis=1, keepdims=True)
    allowed = top / 253 if kind != "fp8" else np.maximum(np.abs(w) / 15.9, top / 448 * 2.0**-9)
    assert (np.abs(np.asarray(q.widened(jnp.float32)) - w) <= allowed).all()
    assert not np.asarray(q.values[..., 0]).any()


def test_a_layer_reads_the_numbers_that_are_stored():
    x = np.random.default_rng(1).standard_normal((2, 5, 64)).astype(np.float32)
    layer = Linear(48, ("embed", "mlp"), use_bias=False)
    for kind in ("int8", "fp8"):
        q = quantize(jnp.asarray(kernel(64, 48)), kind)
        found = layer.apply({"params": {"kernel": q}}, x)
        stored = np.asarray(q.values, np.float64) * np.asarray(q.scale, np.float64)
        np.testing.assert_allclose(found, x @ stored, rtol=1e-5, atol=1e-4)


def test_dynamic_products_are_of_whole_numbers():
    x = np.random.default_rng(1).standard_normal((2, 5, 64)).astype(np.float32)
    x[0, 0] *= 1e4  # a token's size is its own
    q = quantize(jnp.asarray(kernel(64, 48)), "int8_dynamic")
    found = np.asarray(Linear(48, ("embed", "mlp"), use_bias=False).apply({"params": {"kernel": q}}, x))
    step = np.abs(x).max(-1, keepdims=True) / np.float32(127)
    whole = np.round(x / step).astype(np.int64) @ np.asarray(q.values, np.int64)
    np.testing.assert_allclose(found, whole * step.astype(np.float64) * np.asarray(q.scale, np.float64), rtol=1e-5)
    near = x @ np.asarray(q.widened(jnp.float32))
    assert not np.array_equal(found, near)
    assert np.linalg.norm(found - near) < 0.01 * np.linalg.norm(near)


def test_half_the_bytes_of_bfloat16_also_of_parts_that_the_file_keeps_wide():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    release = load_bundle("toy").release
    size = {}
    for kind in (None, "int8", "fp8"):
        networks = networks_on(mesh, release, jnp.bfloat16, jnp.bfloat16, Storage(kind))
        shapes = abstract_weights(networks, QUANTIZED, mesh)
        size[kind] = {part: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes[part])) for part in shapes}
    for part, ratio in {"transformer": 0.55, "connectors": 0.6, "text": 0.6}.items():  # these have larger tables
        assert size["fp8"][part] == size["int8"][part] < ratio * size[None][part], (part, size)


def test_official_spellings_are_known_and_others_are_refused_by_name():
    assert Storage("fp8-cast", "cpu") == Storage("fp8", "host")
    assert Storage("none", "none") == Storage()
    for given in ({"quantization": "nvfp4-cast"}, {"quantization": "fp8-scaled-mm"}, {"offload": "disk"}):
        with pytest.raises(UserError, match=next(iter(given.values()))):
            Storage(**given)


def test_only_kernels_of_linear_layers_are_quantised():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    networks = networks_on(mesh, load_bundle("toy").release, storage=Storage("int8"))
    tree = abstract_weights(networks, ("transformer", "video_decoder"), mesh)
    is_quantized = lambda x: isinstance(x, Quantized)
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_quantized)
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path, x in leaves if is_quantized(x)}
    assert all(name.startswith("transformer/") and name.endswith("/kernel") for name in names) and len(names) > 40
    assert not any(kept in name for name in names for kept in ("patchify_proj", "proj_out", "to_gate_logits"))
