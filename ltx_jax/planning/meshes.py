"""Which mesh to plan for where the config names none, and which ones a search tries."""

import math

from jax.sharding import Mesh

from ltx_jax.diffusion.geometry import latent_shape
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.planning.topology import Topology
from ltx_jax.planning.workload import Workload
from ltx_jax.releases import Release

SHORT = 16384  # tokens up to which moving activations is cheaper than gathering weights
LONGEST_RING = 16  # context shards; beyond them heads are split too


def choose_mesh(config: MeshConfig, target: Topology, workload: Workload, release: Release) -> Mesh:
    """The config's mesh over the topology, or one that suits the mode where the config leaves every axis alone."""
    if config == MeshConfig():
        config = default_mesh(len(target.devices), workload, release)
    return make_mesh(config, target.devices)


def default_mesh(devices: int, workload: Workload, release: Release) -> MeshConfig:
    """Training: parameters, optimizer and samples over all devices. Sampling: one clip over all of them, its heads
    where the clip is short, its tokens where it is long, both on many devices. Decoding and encoding: a clip per
    device."""
    if workload.mode == "train":
        return MeshConfig(data=1, fsdp=devices)
    if workload.mode in ("decode", "encode"):
        return MeshConfig(data=devices)
    heads = release.transformer.num_attention_heads
    tokens = math.prod(latent_shape(workload.shape, release.video_vae.scale_factors))
    if tokens <= SHORT:
        tensor = math.gcd(devices, heads)
        return MeshConfig(data=1, tensor=tensor, context=devices // tensor)
    tensor = 1
    while devices // tensor > LONGEST_RING and devices % (2 * tensor) == 0 and heads % (2 * tensor) == 0:
        tensor *= 2
    return MeshConfig(data=1, context=devices // tensor, tensor=tensor)


def candidates(devices: int, workload: Workload, release: Release) -> list[MeshConfig]:
    """Meshes for a search, the default one first."""
    found = [default_mesh(devices, workload, release)]
    splits = [n for n in (2, 4, 8) if devices % n == 0 and release.transformer.num_attention_heads % n == 0]
    if workload.mode == "train":
        found += [MeshConfig(data=n, fsdp=devices // n) for n in splits[:1]]
        found += [MeshConfig(data=1, fsdp=devices // n, tensor=n) for n in splits]
        found += [MeshConfig(data=1, fsdp=devices // n, context=n) for n in splits[:2]]
    if workload.mode == "sample":
        found += [MeshConfig(data=1, context=devices // n, tensor=n) for n in (1, *splits)]
    return list(dict.fromkeys(found))
