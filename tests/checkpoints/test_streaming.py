"""Tensors stream from files onto devices: the arrays are those of the host's way, and the host holds few bytes."""

import json
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from ltx_jax.bundle import abstract_weights, make_networks, networks_on, place_parts
from ltx_jax.checkpoints import streaming
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.models.storage import HOST, Storage
from ltx_jax.parallel.mesh import MeshConfig, make_mesh


@pytest.mark.parametrize("shape", [MeshConfig(), MeshConfig(fsdp=2, tensor=2)], ids=["one", "four"])
def test_streamed_arrays_are_those_of_the_host(shape, monkeypatch):
    mesh = make_mesh(shape, jax.devices()[: 4 if shape.tensor == 2 else 1])
    bundle = load_bundle("toy", dtype=None)
    networks = make_networks(bundle.release)
    parts = ("transformer", "video_decoder", "video_statistics")
    monkeypatch.setattr(streaming, "AHEAD", 1 << 16)
    placed = place_parts(networks, bundle.params, parts, mesh)
    wanted = abstract_weights(networks, parts, mesh)
    for part in parts:
        host = bundle.params[part]
        assert jax.tree.structure(placed[part]) == jax.tree.structure(host)
        for ours, theirs, abstract in zip(*map(jax.tree.leaves, (placed[part], host, wanted[part])), strict=True):
            assert ours.dtype == theirs.dtype and ours.sharding.is_equivalent_to(abstract.sharding, ours.ndim)
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [MeshConfig(), MeshConfig(fsdp=2, tensor=2)], ids=["one", "four"])
def test_weights_are_quantised_on_the_way_and_lie_where_they_should(shape):
    mesh = make_mesh(shape, jax.devices()[: 4 if shape.tensor == 2 else 1])
    bundle, parts = load_bundle("toy", dtype=None), ("transformer", "connectors")
    networks = networks_on(mesh, bundle.release, storage=Storage("int8", "host"))
    streamed = place_parts(networks, bundle.params, parts, mesh)
    put = place_parts(networks, {part: bundle.params[part] for part in parts}, parts, mesh)
    wanted = abstract_weights(networks, parts, mesh, streamed)
    on_host = 0
    for ours, theirs, abstract in zip(*map(jax.tree.leaves, (streamed, put, wanted)), strict=True):
        assert ours.dtype == theirs.dtype == abstract.dtype and ours.shape == abstract.shape
        assert ours.sharding.is_equivalent_to(abstract.sharding, ours.ndim)
        assert ours.sharding.memory_kind == theirs.sharding.memory_kind == abstract.sharding.memory_kind
        np.testing.assert_array_equal(ours, theirs)
        on_host += ours.nbytes * (ours.sharding.memory_kind == HOST)
    assert on_host > 0.7 * sum(x.nbytes for x in jax.tree.leaves(streamed["transformer"]))


def test_types_are_cast_on_the_way():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    bundle = load_bundle("toy", dtype=np.float16)
    placed = place_parts(make_networks(bundle.release), bundle.params, ("connectors",), mesh)["connectors"]
    jax.tree.map(np.testing.assert_array_equal, placed, bundle.params["connectors"])
    assert {leaf.dtype for leaf in jax.tree.leaves(placed)} == {np.dtype(np.float16)}


PEAK = """
import json, resource, sys, threading, time
import jax
from ltx_jax.checkpoints.safetensors import SafetensorsFile
from ltx_jax.checkpoints.streaming import PartReader
from ltx_jax.names import linear
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from jax.sharding import NamedSharding, PartitionSpec

def resident():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))

file = SafetensorsFile(sys.argv[1])
names = linear("layers.{i}", ("layers",), False, 24) + linear("large", ("large",), False)
mesh = make_mesh(MeshConfig(), jax.devices()[:1])
sharding = NamedSharding(mesh, PartitionSpec())
small = PartReader("small", linear("layers.{i}", ("layers",), False, 1), file, "")
small.place({"layers": {"kernel": sharding}})  # what compiling takes is no matter of loading
reader = PartReader("all", names, file, "")
before, peak, done = resident(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.005)

thread = threading.Thread(target=watch)
thread.start()
tree = reader.place({"layers": {"kernel": sharding}, "large": {"kernel": sharding}})
done = True
thread.join()
size = sum(x.nbytes for x in jax.tree.leaves(tree))
largest = max(map(file.nbytes, file))
print(json.dumps({"beyond": peak - before - size, "allowed": 2 * largest + (256 << 20), "size": size}))
"""


@pytest.mark.slow
def test_the_host_holds_little_beyond_the_arrays(tmp_path):
    """1.5 GB of 24 layers and a large tensor: twice the largest tensor and 256 MiB beyond the arrays at most."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    tensors = {f"layers.{i}.weight": rng.random((2048, 6144), np.float32) for i in range(24)}
    save_file(tensors | {"large.weight": rng.random((8192, 12288), np.float32)}, tmp_path / "x.safetensors")
    del tensors
    command = [sys.executable, "-c", textwrap.dedent(PEAK), str(tmp_path / "x.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["beyond"] < found["allowed"] < found["size"]
