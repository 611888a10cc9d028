"""The official tensors of the releases are those of the published tables, and follow from the configuration."""

import collections
import dataclasses
import json
import math
from pathlib import Path

import pytest

from ltx_jax.checkpoints.tables import official_tensors, part_shapes
from ltx_jax.releases import release

GOLDEN = Path(__file__).parents[1] / "golden"
RELEASES = {"ltx2_19b": "2.0", "ltx2_3_22b": "2.3", "ltx2_5_22b": "2.5"}
TRANSFORMER_AND_TEXT = {"2.0": 3569, "2.3": 4448, "2.5": 4353}  # tensors of the recorded table of a whole release
# Tensors and parameters of the video VAE (spec video_vae.md 10), of encoder and decoder.
VIDEO = {
    "2.0": ((92, 694_098_881), (90, 528_380_720)),
    "2.3": ((84, 318_936_897), (84, 407_169_072)),
}
VIDEO["2.5"] = (VIDEO["2.3"][0], (309, 417_133_616))  # but for `type_emb`, which nothing reads


def table(*path):
    return json.loads(GOLDEN.joinpath(*path).read_text())


def repeated(template, shape, layers):
    return {template.replace("{i}", str(i)): tuple(shape) for i in layers}


def transformer_and_text(version):
    found = {}
    for name, (shape, count) in table("dit", "keys.json")["releases"][version]["keys"].items():
        found |= repeated(f"model.diffusion_model.{name}", shape, range(count))
    for name, (shape, _, count) in table("dit", "keys_text.json")["releases"][version]["keys"].items():
        found |= repeated(name, shape, range(count))
    return found


def gemma(version):
    found = {}
    for name, value in table("gemma", "keys.json")["gemma4_packed" if version == "2.5" else "gemma3"].items():
        for shape, layers in value if "{i}" in name else [[value, [0]]]:
            if isinstance(layers, str):
                first, last = map(int, layers.split(".."))
                layers = range(first, last + 1)
            found |= repeated(name, shape, layers)
    return found


@pytest.fixture(scope="module", params=RELEASES)
def listed(request):
    version = RELEASES[request.param]
    return version, list(official_tensors(release(request.param)))


def shapes_of(tensors, *files):
    return {t.name: t.shape for t in tensors if t.file in files or t.part in files}


def test_transformer_and_text_are_the_recorded_tables(listed):
    version, tensors = listed
    expected = transformer_and_text(version)
    assert len(expected) == TRANSFORMER_AND_TEXT[version]
    parts = shapes_of(tensors, "transformer", "connectors")
    assert parts == expected


def test_the_text_encoders_file_is_the_recorded_table(listed):
    version, tensors = listed
    assert shapes_of(tensors, "text_encoder") == gemma(version)


def test_sound_is_the_recorded_table(listed):
    version, tensors = listed
    tables = table("audio_vae", "keys.json")
    vocoder = tables["vocoder_2_0" if version == "2.0" else "vocoder_2_3_and_2_5"]
    expected = {name: tuple(shape) for name, shape in (tables["audio_vae"] | vocoder).items()}
    assert shapes_of(tensors, "audio_encoder", "audio_decoder", "audio_statistics", "vocoder") == expected


def test_the_video_vae_has_the_published_counts(listed):
    version, tensors = listed
    name = next(name for name, number in RELEASES.items() if number == version)
    for half, expected in zip(("encoder", "decoder"), VIDEO[version], strict=True):
        shapes = part_shapes(release(name), f"video_{half}")
        assert (len(shapes), sum(map(math.prod, shapes.values()))) == expected
        whole = "" if version == "2.5" else "vae."
        assert {f"{whole}{half}.{name}" for name in shapes} <= {t.name for t in tensors}
    convolutional = {f"decoder.{name}" for name in part_shapes(release("ltx2_3_22b"), "video_decoder")}
    assert (convolutional <= {t.name for t in tensors}) == (version == "2.5")


def test_optional_parts_are_listed(listed):
    version, tensors = listed
    counts = collections.Counter(t.part for t in tensors)
    assert counts["temporal_upsampler"] == 72  # spec video_vae.md 9
    names = {(t.name, t.shape) for t in tensors if t.part == "spatial_upsampler"}
    resamplers = {
        "2.0": {("upsampler.conv.weight", (4096, 1024, 3, 3))},
        "2.3": {("upsampler.0.weight", (4096, 1024, 3, 3)), ("upsampler.conv.weight", (9216, 1024, 3, 3))},
        "2.5": {("upsampler.0.weight", (4096, 1024, 3, 3))},
    }
    assert {entry for entry in names if entry[0].startswith("upsampler.") and len(entry[1]) == 4} - {
        ("upsampler.blur_down.kernel", (1, 1, 5, 5))
    } == resamplers[version]
    assert counts["duration_head"] == (15 if version == "2.5" else 0)


def test_names_follow_from_the_configuration():
    toy = release("toy")
    per_block = lambda tensors: sum(".transformer_blocks." in t.name for t in tensors)
    counts = {}
    for layers in (2, 7):
        transformer = dataclasses.replace(toy.transformer, num_layers=layers)
        counts[layers] = per_block(official_tensors(dataclasses.replace(toy, transformer=transformer)))
    assert counts[7] * 2 == counts[2] * 7 > 0
