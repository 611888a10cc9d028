"""The official tensors of a model with their shapes: inferred from the networks, nothing is allocated."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from ltx_jax.bundle import abstract_parts, make_networks
from ltx_jax.models.text.duration import DurationConfig
from ltx_jax.models.upsampler import UpsamplerConfig
from ltx_jax.models.video_vae.config import VideoVAEConfig
from ltx_jax.names import official_shapes
from ltx_jax.names.connectors import FEATURES_PREFIX
from ltx_jax.names.towers import tower_shapes
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parts import Part, find_part, parts_of
from ltx_jax.releases import COMPANIONS, Release

Shape = tuple[int, ...]


class Tensor(NamedTuple):
    """One official tensor: where it lies (see `Part.file` and `Part.split`), its part, whole name and shape."""

    file: str
    part: str
    name: str
    shape: Shape


@functools.lru_cache(maxsize=64)
def part_shapes(release: Release, part: str) -> dict[str, Shape]:
    """Shapes of a part's official tensors, by name without prefix."""
    networks = make_networks(release, platform="cpu")  # of the form that a CPU runs: inferred once for both
    with jax.set_mesh(make_mesh(MeshConfig(), jax.local_devices()[:1])):
        shapes, _ = abstract_parts(networks, [part])
    return official_shapes(find_part(release, part).names_of(release), shapes[part])


def place_of(part: Part, official: str, split: bool) -> tuple[str, str]:
    """File and whole name of the tensor `official` (without prefix) of a part, in one file or in split ones."""
    if split and official.startswith(FEATURES_PREFIX):  # of the connectors' part, but it lies beside the text encoder
        return "text_encoder", official
    file, prefix = part.component if split else (part.file, part.prefixes[0])
    return file, prefix + official


def official_tensors(release: Release) -> Iterator[Tensor]:
    """Every tensor of the files that make up a release, in the layout that it is published in.

    The text encoder's towers, optional parts, and the other video VAE of 2.5 are among them. What is published in two
    kinds (an upsampler, a video decoder) has equal names in two files.
    """
    for part in parts_of(release):
        yield from _tensors(release, part)
        if part.name == "text":
            yield from (Tensor(part.file, "towers", *entry) for entry in tower_shapes(release.text).items())
    for companions in COMPANIONS.get(release.name, ()):
        with_them = dataclasses.replace(release, **_fitting(release, companions))
        yield from (t for part in parts_of(with_them) if part.config in companions for t in _tensors(with_them, part))


def _fitting(release: Release, companions: Mapping[str, Any]) -> dict[str, Any]:
    """Companions of a release whose widths a config may have changed: they take its own."""
    widths = {
        UpsamplerConfig: {"in_channels": release.video_vae.latent_channels},
        DurationConfig: {"video_width": release.connectors.video.width, "audio_width": release.connectors.audio.width},
        VideoVAEConfig: {"latent_channels": release.video_vae.latent_channels},
    }
    return {name: dataclasses.replace(config, **widths[type(config)]) for name, config in companions.items()}


def _tensors(release: Release, part: Part) -> Iterator[Tensor]:
    for official, shape in part_shapes(release, part.name).items():
        file, name = place_of(part, official, release.split)
        yield Tensor(file, part.name, name, shape)
