"""Files as people have them: every layout loads to the same model, and mistakes are named."""

import json
import shutil
import struct

import jax
import ml_dtypes
import numpy as np
import pytest

from ltx_jax.bundle import networks_on, place_parts
from ltx_jax.checkpoints.load import TOY, load_bundle
from ltx_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from ltx_jax.errors import UserError
from ltx_jax.names.diffusers import COMPONENTS, diffusers_names
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parts import parts_of
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.sampler import Sampler

WHOLE = SafetensorsFile(TOY / "model.safetensors")
TEXT = SafetensorsFile(TOY / "text_encoder/model.safetensors")
SPLIT = {
    "transformer": ("model.diffusion_model.",),
    "video_vae": ("vae.",),
    "audio_vae": ("audio_vae.", "vocoder."),
}


def config(*blocks):
    return {"config": json.dumps({block: WHOLE.json("config")[block] for block in blocks})}


def tensors_of(*prefixes):
    return {name: WHOLE[name] for name in WHOLE if name.startswith(prefixes)}


def write_text(path):
    """A packed text encoder: features and assets in its file."""
    assets = {"tokenizer_json": np.frombuffer((TOY / "text_encoder/tokenizer.json").read_bytes(), np.uint8)}
    gemma = json.loads((TOY / "text_encoder/config.json").read_text())
    tensors = {name: TEXT[name] for name in TEXT} | tensors_of("text_embedding_projection.") | assets
    write_safetensors(path, tensors, {"gemma_config": json.dumps(gemma)})


def write_split(folder, names=lambda component: f"{component}.safetensors"):
    """Files as 2.5 is published: one per component, the video VAE without its first prefix."""
    own = {"ltx_jax": WHOLE.metadata["ltx_jax"], "model_version": WHOLE.metadata["model_version"]}
    for component, prefixes in SPLIT.items():
        tensors = {name.removeprefix("vae."): x for name, x in tensors_of(*prefixes).items()}
        blocks = {"transformer": ("transformer",), "video_vae": ("vae",), "audio_vae": ("audio_vae", "vocoder")}
        write_safetensors(folder / names(component), tensors, config(*blocks[component]) | own)
    write_text(folder / names("text_encoder"))


def write_diffusers(folder):
    """A pipeline of diffusers that this library has written: official metadata beside the names of diffusers."""
    parts = {"transformer": ("transformer",), "vae": ("vae",), "audio_vae": ("audio_vae",), "vocoder": ("vocoder",)}
    index = {"_class_name": "LTX2Pipeline"}
    for component, (_, prefix, _) in COMPONENTS.items():
        if component == "duration_head":
            continue
        whole = tensors_of(prefix or "model.diffusion_model.", *["text_embedding_projection."] * (not prefix))
        connectors = lambda name: "embeddings_connector" in name or name.startswith("text_embedding")
        own = {n: x for n, x in whole.items() if connectors(n) == (component == "connectors")}
        table = diffusers_names(component, own)
        tensors = {table[name][0]: x for name, x in own.items()}
        metadata = config(*parts.get(component, ("transformer",))) | {"ltx_jax": WHOLE.metadata["ltx_jax"]}
        metadata["model_version"] = WHOLE.metadata["model_version"]
        write_safetensors(folder / component / "diffusion_pytorch_model.safetensors", tensors, metadata)
        index[component] = ["diffusers", "AutoModel"]
    shutil.copytree(TOY / "text_encoder", folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    (folder / "text_encoder/tokenizer.json").rename(folder / "tokenizer/tokenizer.json")
    index |= {"text_encoder": ["transformers", "Gemma3"], "tokenizer": ["transformers", "GemmaTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def write_shards(folder):
    """Shards with their index, as the hub has them."""
    names = list(WHOLE)
    half = len(names) // 2
    weight_map = {}
    for i, own in enumerate((names[:half], names[half:]), 1):
        file = f"model-{i:05d}-of-00002.safetensors"
        write_safetensors(folder / file, {name: WHOLE[name] for name in own}, WHOLE.metadata)
        weight_map |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    shutil.copytree(TOY / "text_encoder", folder / "text_encoder")


def write_comfy(folder):
    """A tree of models, among them what is no part of this one; the names of files say nothing."""
    places = {"transformer": "diffusion_models/a", "video_vae": "vae/b", "audio_vae": "vae/c"}
    write_split(folder, lambda component: f"{places.get(component, 'text_encoders/d')}.safetensors")
    write_safetensors(folder / "checkpoints/other.safetensors", {"model.other.weight": np.zeros(3, np.float32)})
    lora = {f"diffusion_model.x.lora_{side}.weight": np.zeros((2, 2), np.float32) for side in "AB"}
    write_safetensors(folder / "loras/style.safetensors", lora)


def assert_is_toy(bundle):
    toy = load_bundle("toy")
    assert bundle.release == toy.release
    for part in (row.name for row in parts_of(toy.release)):
        ours, theirs = bundle.params[part], toy.params[part]
        assert_equal(ours, theirs, part)


def assert_equal(ours, theirs, where):
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    else:
        np.testing.assert_array_equal(ours, theirs, where)


@pytest.mark.parametrize("write", [write_split, write_diffusers, write_shards, write_comfy])
def test_every_layout_is_the_same_model(tmp_path, write):
    write(tmp_path)
    assert_is_toy(load_bundle(tmp_path))


def test_components_are_given_by_their_paths(tmp_path):
    write_split(tmp_path)
    files = {name: tmp_path / f"{name}.safetensors" for name in (*SPLIT, "text_encoder")}
    assert_is_toy(load_bundle(None, files=files))
    assert_is_toy(load_bundle(files.pop("transformer"), files=files))
    with pytest.raises(UserError, match=r"holds the transformer and the text connectors, but is given for the video V"):
        load_bundle("toy", files={"video_vae": tmp_path / "transformer.safetensors"})
    del files["audio_vae"]
    with pytest.raises(UserError, match="no whole model: give the rest as --audio_vae_path"):
        load_bundle(tmp_path / "transformer.safetensors", files=files)


def test_of_a_file_given_for_a_component_nothing_else_is_taken(tmp_path):
    def quieter(tensors):
        for name in ("vae.decoder.conv_out.conv.bias", NAME):
            tensors[name] = tensors[name] * 0

    other = damaged(tmp_path, quieter) / "model.safetensors"
    params = load_bundle("toy", files={"video_vae": other}).params
    assert not params["video_decoder"]["conv_out"]["bias"].any()
    assert params["transformer"]["blocks"]["video"]["attn1"]["to_q"]["kernel"][1].any()


def test_two_files_of_one_part_are_a_question(tmp_path):
    write_split(tmp_path)
    shutil.copy(tmp_path / "video_vae.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.*video_vae.*both hold the video VAE.*--video_vae_path"):
        load_bundle(tmp_path)
    assert_is_toy(load_bundle(tmp_path, files={"video_vae": tmp_path / "other.safetensors"}))


def test_repacks_without_prefix_and_scaled_fp8(tmp_path):
    write_split(tmp_path)
    file = SafetensorsFile(tmp_path / "transformer.safetensors")
    name = "transformer_blocks.0.attn1.to_q.weight"
    tensors = {n.removeprefix("model.diffusion_model."): file[n] for n in file}
    weight = tensors[name].astype(np.float32)
    scale = np.float32(np.abs(weight).max() / 448)
    tensors[name] = (weight / scale).astype(ml_dtypes.float8_e4m3fn)
    expected = (tensors[name].astype(np.float32) * scale).astype(ml_dtypes.bfloat16).astype(np.float32)
    tensors[name.replace(".weight", ".weight_scale")] = scale.reshape(())
    write_safetensors(tmp_path / "transformer.safetensors", tensors, file.metadata)
    kernel = load_bundle(tmp_path).params["transformer"]["blocks"]["video"]["attn1"]["to_q"]["kernel"]
    np.testing.assert_array_equal(kernel[0], expected.T)


def test_a_file_without_the_embedding_of_key_frames_means_zeros(tmp_path):
    key = "model.diffusion_model.keyframes_abs_pos_embedding"
    bundle = load_bundle(damaged(tmp_path, lambda tensors: tensors.pop(key)))
    found = bundle.params["transformer"]["video_entry"]["keyframes_abs_pos_embedding"]
    assert found.shape == WHOLE.shape(key) and not found.any() and WHOLE[key].any()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    placed = place_parts(networks_on(mesh, bundle.release), bundle.params, ("transformer",), mesh)["transformer"]
    assert not placed["video_entry"]["keyframes_abs_pos_embedding"].any()


def test_distilled_weights_asked_for_guidance_are_warned_about(tmp_path, capsys):
    shutil.copytree(TOY, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "ltx-2-19b-distilled.safetensors")
    sampler = Sampler(load_bundle(tmp_path / "ltx-2-19b-distilled.safetensors"))
    for cfg, warned in ((1.0, False), (3.0, True)):
        sampler.clips(Request(prompts=("a red circle",), seed=1, cfg=cfg))  # nothing is sampled before it is asked for
        assert ("distilled to sample without guidance" in "".join(capsys.readouterr())) == warned


# --- mistakes -------------------------------------------------------------------------------------------------------


def damaged(tmp_path, change, metadata=None):
    folder = tmp_path / "toy"
    shutil.copytree(TOY, folder, dirs_exist_ok=True)
    tensors = {name: WHOLE[name] for name in WHOLE}
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors, {**WHOLE.metadata, **(metadata or {})})
    return folder


NAME = "model.diffusion_model.transformer_blocks.1.attn1.to_q.weight"


def rename(tensors):
    tensors[NAME.replace("to_q", "to_query")] = tensors.pop(NAME)


def whole_numbers(tensors):
    tensors[NAME] = tensors[NAME].astype(np.int32)


def reshape(tensors):
    tensors[NAME] = tensors[NAME][:-1]


def add(tensors):
    tensors["vae.decoder.extra.weight"] = np.zeros(2, np.float32)


def nvfp4(tensors):
    tensors[NAME.replace("weight", "weight_scale_2")] = np.zeros((), np.float32)


@pytest.mark.parametrize(
    "change, words",
    [
        (rename, r"lacks 1 of the \d+ tensors of the transformer: '.*\.to_q\.weight'; it is of another model"),
        (whole_numbers, r"stores weights of the transformer as whole numbers \('.*to_q.weight'\)"),
        (
            reshape,
            r"1 tensors of the transformer in shapes .*: '.*to_q.weight' is \(191, 192\) instead of \(192, 192\)",
        ),
        (add, r"1 tensors that its configuration has no place for: 'vae\.decoder\.extra\.weight'"),
        (nvfp4, "quantised as nvfp4, which is not read here"),
    ],
)
def test_altered_files_are_one_sentence(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        load_bundle(damaged(tmp_path, change))


def test_a_wrong_configuration_lists_ten_tensors(tmp_path):
    blocks = WHOLE.json("config")
    blocks["transformer"]["num_layers"] = 7
    folder = damaged(tmp_path, lambda tensors: None, {"config": json.dumps(blocks)})
    with pytest.raises(UserError) as error:
        load_bundle(folder)
    assert str(error.value).count("'model.diffusion_model.") == 10 and " more; it is of another" in str(error.value)


def test_the_wrong_file_is_named(tmp_path):
    lora = {f"diffusion_model.x.lora_{side}.weight": np.zeros((2, 2), np.float32) for side in "AB"}
    write_safetensors(tmp_path / "lora.safetensors", lora)
    with pytest.raises(UserError, match=r"holds a LoRA, and no model: give it as --lora"):
        load_bundle(tmp_path / "lora.safetensors")
    upsampler = {
        "initial_conv.weight": np.zeros((8, 4, 3, 3, 3), np.float32), "final_conv.weight": np.zeros((4, 8, 3, 3, 3)),
        "upsampler.0.weight": np.zeros((32, 8, 3, 3), np.float32),
    }  # fmt: skip
    write_safetensors(tmp_path / "up.safetensors", upsampler)
    with pytest.raises(UserError, match="holds a spatial latent upsampler, which is no whole model"):
        load_bundle(tmp_path / "up.safetensors")
    with pytest.raises(UserError, match=r"holds a spatial latent upsampler, but is given for the audio VAE"):
        load_bundle("toy", files={"audio_vae": tmp_path / "up.safetensors"})


def test_another_release_beside_a_text_encoder(tmp_path):
    source = {"gemma_source_checkpoint": json.dumps({"ltx_version": "2.5.0", "gemma_version": "gemma4-12b-ltx-v1"})}
    with pytest.raises(UserError, match="was trained with the text encoder gemma4-12b-ltx-v1"):
        load_bundle(damaged(tmp_path, lambda tensors: None, source))
    blocks = WHOLE.json("config")
    blocks["transformer"]["caption_channels"] = 256
    with pytest.raises(UserError, match=r"reads a text encoder of width 256, but .* is 128 wide"):
        load_bundle(damaged(tmp_path, lambda tensors: None, {"config": json.dumps(blocks)}))
    folder = damaged(tmp_path, lambda tensors: None)
    file = SafetensorsFile(folder / "model.safetensors")
    official = {key: value for key, value in file.metadata.items() if key != "ltx_jax"}
    write_safetensors(folder / "model.safetensors", {name: file[name] for name in file}, official)
    with pytest.raises(UserError, match=r"of release 2\.5\.0, whose text encoder is a Gemma 4, but .* is a Gemma 3"):
        load_bundle(folder)


def header(path, entries, size):
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    return path


def test_headers_that_lie(tmp_path):
    entry = lambda begin, end: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
    cases = (
        ({"a": entry(0, 4), "b": entry(3, 8)}, 8, "'b' overlaps the one before it"),
        ({"a": entry(0, 4), "b": entry(6, 8)}, 8, "'b' leaves a hole of 2 bytes"),
        ({"a": entry(0, 4)}, 9, "5 bytes at its end belong to no tensor"),
        ({"a": entry(0, 4)}, 3, "truncated"),
        ({"a": {"dtype": "U8", "shape": [5], "data_offsets": [0, 4]}}, 4, "does not match its shape"),
        ({"a": {"dtype": "U8", "shape": [-4], "data_offsets": [0, 4]}}, 4, "does not match its shape"),
        ({"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, 4, "as F4, which is not supported"),
    )
    for entries, size, words in cases:
        with pytest.raises(UserError, match=words):
            SafetensorsFile(header(tmp_path / "x.safetensors", entries, size))


@pytest.mark.parametrize(
    "data, words",
    [(b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"), (b"PK\x03\x04aaaaaaaa", "pickle"), (b"version https://git-lfs", "Git LFS")],
)
def test_other_formats_are_refused_by_name(tmp_path, data, words):
    (tmp_path / "model.ckpt").write_bytes(data)
    with pytest.raises(UserError, match=words):
        load_bundle(tmp_path / "model.ckpt")


def test_names_of_the_hub_are_found_in_its_cache(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="names of the hub need the extra 'hub'")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "models--some--model", "0123456789" * 4
    write_split(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    name = "hf:some/model/{}.safetensors@main"
    files = {component: name.format(component) for component in (*SPLIT, "text_encoder")}
    assert_is_toy(load_bundle(None, files=files))
    for wrong, words in (("hf:some/other/x.safetensors", "not in the hub's cache"), ("hf:some", "names no file")):
        with pytest.raises(UserError, match=words):
            load_bundle(wrong)


def test_a_gated_repository_is_one_sentence(monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="names of the hub need the extra 'hub'")

    def refuse(*args, **more):
        raise hub.errors.GatedRepoError.__new__(hub.errors.GatedRepoError)  # as made of a response of the hub

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"gated: accept its terms at https://huggingface.co/some/model.*hf auth login"):
        load_bundle("hf:some/model/x.safetensors")
