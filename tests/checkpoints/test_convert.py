"""Every layout becomes every other bit for bit; what was stopped goes on; a plan writes nothing."""

import dataclasses
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ltx_jax.checkpoints import convert, orbax_folder
from ltx_jax.checkpoints.diffusers_config import component_config
from ltx_jax.checkpoints.load import TOY
from ltx_jax.checkpoints.safetensors import SafetensorsFile, Tensors, checksum
from ltx_jax.checkpoints.tables import official_tensors
from ltx_jax.checkpoints.writer import stream_safetensors
from ltx_jax.errors import UserError
from ltx_jax.parts import configs_from_official, configs_to_official
from ltx_jax.releases import release

ROOT = Path(__file__).parents[2]


def contents(folder):
    """All official tensors below a folder with their bytes, whatever the layout, as they are read."""
    model = convert.Model.open(folder)
    found = {}
    for source in model.catalog.sources():
        found |= {name: (source.dtype(name), source.shape(name), source[name].tobytes()) for name in source}
    return found, model


@pytest.fixture(scope="module")
def toy():
    return contents(TOY)


def test_a_chain_of_layouts_ends_where_it_began(toy, tmp_path):
    expected, first = toy
    at, before = first, TOY
    for layout in (*convert.LAYOUTS, *reversed(convert.LAYOUTS)):
        folder = tmp_path / f"{before.name}-{layout}"
        outputs = convert.plan(at, layout)
        convert.write(outputs, folder, at.origin, lambda size: None, manifest=False)
        assert convert.verify(outputs, folder, lambda size: None) >= len(expected)
        found, at = contents(folder)
        assert found == expected and at.release == first.release and at.tokenizer == first.tokenizer, layout
        before = folder


@pytest.mark.parametrize("name", ["ltx2_19b", "ltx2_3_22b", "ltx2_5_22b"])
def test_the_configs_of_diffusers_say_what_differs_from_its_defaults(name):
    """Of the published releases, in the words of spec transformer.md 16.1."""
    first = name == "ltx2_19b"
    transformer, connectors = (component_config(folder, release(name)) for folder in ("transformer", "connectors"))
    assert transformer["_class_name"] == "LTX2VideoTransformer3DModel"
    assert (transformer["rope_type"], transformer["rope_double_precision"]) == ("split", True)
    assert [transformer[k] for k in ("pos_embed_max_pos", "base_height", "base_width")] == [20, 2048, 2048]
    assert transformer["cross_attn_timestep_scale_multiplier"] == 1000
    for key in ("gated_attn", "audio_gated_attn", "cross_attn_mod", "audio_cross_attn_mod"):
        assert transformer[key] is not first
    assert transformer["use_prompt_embeddings"] is first and connectors["per_modality_projections"] is not first
    assert transformer["ff_bias"] is (name != "ltx2_5_22b")
    assert connectors["connector_rope_base_seq_len"] == 4096 and connectors["text_proj_in_factor"] == 49
    sizes = [connectors[f"{stream}_hidden_dim"] for stream in ("video", "audio")]
    assert sizes == ([3840, 3840] if first else [4096, 2048]) and connectors["proj_bias"] is not first


class Stopping(Tensors):
    """Tensors whose reading fails after a few."""

    def __init__(self, base, count):
        self.base, self.left, self.path, self.metadata = base, count, base.path, base.metadata

    def __iter__(self):
        return iter(self.base)

    def __len__(self):
        return len(self.base)

    def shape(self, name):
        return self.base.shape(name)

    def dtype(self, name):
        return self.base.dtype(name)

    def read(self, name, rows=None):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.base.read(name, rows)


def test_what_was_stopped_goes_on(tmp_path):
    file = SafetensorsFile(TOY / "text_encoder/model.safetensors")
    path = tmp_path / "x.safetensors"
    write = lambda tensors, origin="a": stream_safetensors(path, tensors, {"k": "v"}, lambda size: None, origin)
    with pytest.raises(KeyboardInterrupt):
        write(Stopping(file, 20))
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(KeyboardInterrupt):  # of other files: begun anew
        write(Stopping(file, 3), "b")
    rest = Stopping(file, len(file) - 20)
    write(rest)
    assert rest.left == 0, "what was written is not read again"
    whole = SafetensorsFile(path)
    assert whole.metadata == {"k": "v"} and whole.keys() == file.keys()
    assert all(np.array_equal(whole[name], file[name]) for name in file)


def test_an_orbax_folder_that_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_folder, "SHARD", 1 << 17)
    file, path = SafetensorsFile(TOY / "text_encoder/model.safetensors"), tmp_path / "x.orbax"
    write = lambda tensors: orbax_folder.write_orbax(path, tensors, {"k": "v"}, lambda size: None, "a")
    with pytest.raises(KeyboardInterrupt):
        write(Stopping(file, 20))
    (partial,) = tmp_path.iterdir()
    assert not path.exists() and len(list(partial.iterdir())) > 2
    rest = Stopping(file, len(file))
    write(rest)
    assert 20 >= rest.left > 10, "of what was written nothing is read again, but for the shard that was begun"
    whole = orbax_folder.OrbaxFolder(path)
    assert whole.metadata == {"k": "v"} and whole.keys() == file.keys()
    assert all(whole.dtype(name) == file.dtype(name) and np.array_equal(whole[name], file[name]) for name in file)
    (path / "metadata.json").unlink()
    with pytest.raises(UserError, match="no folder of Orbax checkpoints"):
        orbax_folder.OrbaxFolder(path)


def test_a_changed_tensor_is_found(toy, tmp_path):
    outputs = convert.plan(toy[1], "split")
    convert.write(outputs, tmp_path, toy[1].origin, lambda size: None, manifest=True)
    path = tmp_path / "transformer.safetensors"
    sums = json.loads((tmp_path / "transformer.safetensors.sha256.json").read_text())
    assert sums.keys() == SafetensorsFile(path).keys() and len(next(iter(sums.values()))) == 64
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    name = max(sums, key=lambda name: SafetensorsFile(path).offset(name))
    with pytest.raises(UserError, match=f"'{name}' has another checksum than its manifest"):
        SafetensorsFile(path).read(name)
    (tmp_path / "transformer.safetensors.sha256.json").unlink()
    with pytest.raises(UserError, match=f"does not hold '{name}'"):
        convert.verify(outputs, tmp_path, lambda size: None)


def full_size_header(folder, name):
    """Files of a published release that hold nothing but headers: as sparse files of their full size."""
    model, files = release(name), {}
    for tensor in official_tensors(dataclasses.replace(model, name="alone")):  # without what is published beside it
        files.setdefault(tensor.file, []).append(tensor)
    blocks, total = configs_to_official(model), 0
    for file, tensors in files.items():
        text = file == "text_encoder"
        own = {"gemma_config": {"text_config": model.text.to_official()}} if text else {"config": blocks}
        entries = {"__metadata__": {k: json.dumps(v) for k, v in own.items()} | {"model_version": model.version}}
        if text:
            entries["__metadata__"]["tokenizer_json"] = (TOY / "text_encoder/tokenizer.json").read_text()
        at = 0
        for tensor in tensors:
            end = at + 2 * int(np.prod(tensor.shape))
            entries[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, end]}
            at = end
        header = json.dumps(entries).encode()
        with open(folder / f"{file}.safetensors", "wb") as out:
            out.write(struct.pack("<Q", len(header)) + header)
            out.truncate(8 + len(header) + at)
        total += at
    return total


@pytest.mark.slow
def test_full_size_headers_are_read_at_once(tmp_path):
    """All names and shapes of 2.5 as sparse files, 70 GB that are not there, go through both tools in ten seconds."""
    assert full_size_header(tmp_path, "ltx2_5_22b") > 60e9
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    for arguments, words in (
        (["inspect", str(tmp_path)], "complete: sample.py"),
        (["convert", f"--input={tmp_path}", "--to=official", "--dry_run"], "GB  in all"),
    ):
        begun, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", f"ltx_jax.tools.{arguments[0]}", *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{arguments[0]}: {time.time() - begun:.1f} s, {work:.1f} s of them of a processor")
        assert work < 10
        assert done.returncode == 0 and words in done.stdout, done.stderr[-2000:] + done.stdout[-2000:]


class Drawn(Tensors):
    """Random bits for every tensor of a model's file, made when they are asked for."""

    def __init__(self, shapes, path):
        self.shapes, self.path = shapes, path

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)

    def shape(self, name):
        return self.shapes[name]

    def dtype(self, name):
        return np.dtype(np.float32 if "scale_shift_table" in name else ml_dtypes.bfloat16)

    def read(self, name, rows=None):
        rng, dtype = np.random.default_rng(zlib.crc32(name.encode())), self.dtype(name)
        return rng.integers(0, 256, self.nbytes(name), np.uint8).view(dtype).reshape(self.shape(name))


CHAIN = """
import json, resource, sys
from pathlib import Path
from ltx_jax.checkpoints import convert

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
at, folder = convert.Model.open(sys.argv[1]), Path(sys.argv[2])
before = peak()
for i, layout in enumerate((*convert.LAYOUTS, "official")):
    outputs = convert.plan(at, layout)
    convert.write(outputs, folder / str(i), at.origin, lambda size: None, manifest=False)
    convert.verify(outputs, folder / str(i), lambda size: None)
    at = convert.Model.open(str(folder / str(i)))
largest = max(source.nbytes(name) for source in at.catalog.sources() for name in source)
print(json.dumps({"beyond": peak() - before, "largest": largest, "allowed": 2 * largest + (256 << 20)}))
"""
GIGABYTES = 4


@pytest.mark.slow
def test_a_large_model_round_trips_in_little_memory(tmp_path):
    """Toy networks with a wide transformer, some gigabytes: through every layout and back, bit for bit."""
    toy = release("toy")
    heads = {"attention_head_dim": 512, "cross_attention_dim": 2048, "audio_attention_head_dim": 256}
    wide = {**heads, "audio_cross_attention_dim": 1024, "num_layers": max(1, round(GIGABYTES * 4.4))}
    wide |= {"audio_connector_attention_head_dim": 256, "connector_attention_head_dim": 512}
    blocks = configs_to_official(toy)
    blocks["transformer"] |= wide
    model = dataclasses.replace(toy, **configs_from_official(blocks, toy.text))
    first = tmp_path / "first"
    shutil.copytree(TOY / "text_encoder", first / "text_encoder")
    shapes = {t.name: t.shape for t in official_tensors(model) if t.file == "model"}
    own = SafetensorsFile(TOY / "model.safetensors").metadata | {"config": json.dumps(blocks)}
    stream_safetensors(first / "model.safetensors", Drawn(shapes, first), own, lambda size: None)
    size = (first / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", CHAIN, str(first), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(size, found)
    assert found["beyond"] < found["allowed"] and size > GIGABYTES * 0.9e9
    again = SafetensorsFile(tmp_path / f"{len(convert.LAYOUTS)}/model.safetensors")
    assert again.metadata == own and again.keys() == shapes.keys()
    whole = Drawn(shapes, first)
    assert all(checksum(again.read(name)) == checksum(whole.read(name)) for name in again)
