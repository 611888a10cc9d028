"""LoRA files of every trainer: whose module a key means, by what its product is scaled, and what is refused."""

import json

import jax
import numpy as np
import pytest

import ltx_jax
from ltx_jax.bundle import Placed, networks_on, place_parts
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.checkpoints.lora import apply_loras, linear_names, modules_of
from ltx_jax.checkpoints.lora_files import adapter_pairs, load_lora
from ltx_jax.checkpoints.safetensors import write_safetensors
from ltx_jax.errors import UserError
from ltx_jax.names.diffusers import diffusers_module, official_module
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parts import find_part
from ltx_jax.releases import release

TO_OUT = "transformer_blocks.0.attn1.to_out.0"
TO_Q = "transformer_blocks.0.attn1.to_q"
PACKED = {"transformer.r": 4, "transformer.lora_alpha": 16}
CONNECTOR = "video_embeddings_connector.transformer_1d_blocks.1.ff.net.0.proj"
MODULES = (
    TO_OUT, "transformer_blocks.1.audio_attn1.to_q", "transformer_blocks.11.attn1.to_q", "proj_out", "audio_proj_out",
    "adaln_single.linear", "av_ca_a2v_gate_adaln_single.emb.timestep_embedder.linear_1", CONNECTOR,
    "text_embedding_projection.video_aggregate_embed",
)  # fmt: skip
SIDES = (
    ("lora_A.weight", "lora_B.weight"), ("lora_A.default.weight", "lora_B.default.weight"),
    ("lora_down.weight", "lora_up.weight"), ("lora.down.weight", "lora.up.weight"), ("lora_A", "lora_B"),
)  # fmt: skip
PREFIXES = (
    "", "diffusion_model.", "model.diffusion_model.", "transformer.", "base_model.model.", "base_model.model.model.",
    "base_model.model.transformer.", "velocity_model.", "transformer._orig_mod.",
)  # fmt: skip
FLAT = ("lora_unet_", "lora_unet_model_", "lora_transformer_", "lycoris_", "lora_unet_model_diffusion_model_")


def pair(rank=4, inputs=3, outputs=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rank, inputs)).astype(np.float32), rng.normal(size=(outputs, rank)).astype(np.float32)


def file(spelled=f"diffusion_model.{TO_OUT}", sides=SIDES[0], **more):
    a, b = pair()
    return {f"{spelled}.{sides[0]}": a, f"{spelled}.{sides[1]}": b} | {f"{spelled}.{k}": v for k, v in more.items()}


def scale(tensors, **metadata):
    """By what the one pair of a file was multiplied."""
    text = {k.replace("__", "."): v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    (found,) = adapter_pairs(tensors, metadata=text, modules=MODULES).values()
    ratio = found[1] / pair()[1]
    assert np.ptp(ratio) < 1e-5 and np.array_equal(found[0], pair()[0])
    return float(ratio.flat[0])


@pytest.mark.parametrize("sides", SIDES)
def test_every_spelling_reads_alike(sides):
    for module in MODULES:
        theirs = diffusers_module(module)
        spelled = [prefix + name for prefix in PREFIXES for name in (module, theirs)]
        spelled += [prefix + name.replace(".", "_") for prefix in FLAT for name in (module, theirs)]
        for name in spelled:
            assert list(adapter_pairs(file(name, sides), modules=MODULES)) == [module], name
    for name in ("transformer_blocks.0.attn1.processor.to_out_lora.down.weight",):
        tensors = {name: pair()[0], name.replace("down", "up"): pair()[1]}
        assert list(adapter_pairs(tensors, modules=MODULES)) == [TO_OUT]


def test_names_of_diffusers_are_whole_components():
    assert diffusers_module("adaln_single.linear") == "time_embed.linear"
    assert diffusers_module(CONNECTOR) == "connectors.video_connector.transformer_blocks.1.ff.net.0.proj"
    assert all(official_module(diffusers_module(module)) == module for module in MODULES)
    assert official_module("x.my_time_embed.linear") == "x.my_time_embed.linear"


def test_an_alpha_beside_the_pair_is_folded_in():
    for alpha in (np.float32(2), np.array([2], np.float16), np.array([[2]], np.int64)):
        assert scale(file(alpha=alpha)) == 0.5
    assert scale(file(alpha=np.float32(2)), transformer__lora_alpha="16") == 0.5  # the nearer one counts


def test_scales_are_read_from_metadata():
    assert scale(file()) == 1
    packed = lambda **settings: {"lora_adapter_metadata": {k.replace("__", "."): v for k, v in settings.items()}}
    assert scale(file(), **packed(transformer__r=4, transformer__lora_alpha=16)) == 4
    assert scale(file(), **packed(r=4, lora_alpha=16)) == 4
    assert scale(file(), transformer__r="4", transformer__lora_alpha="16") == 4
    assert scale(file(), lora_alpha="8") == scale(file(), alpha="8") == scale(file(), network_alpha="8.0") == 2
    assert scale(file(), adapter_config={"r": 4, "lora_alpha": 8}) == 2
    assert scale(file(), transformer__lora_alpha="None") == 1
    stable = packed(transformer__r=4, transformer__lora_alpha=16, transformer__use_rslora=True)
    assert scale(file(), **stable) == 8
    for pattern in ("attn1.to_out.0", TO_OUT, r"transformer_blocks\.0\..*"):
        own = {"transformer__lora_alpha": 16, "transformer__alpha_pattern": {"to_out": 1, pattern: 2}}
        assert scale(file(), **packed(**own)) == 0.5
    others = {"text_encoder__lora_alpha": 64, "connectors__lora_alpha": 32}
    assert scale(file(), **packed(**others)) == 1
    assert scale(file(), **packed(transformer__lora_alpha=16, **others)) == 4
    of_connector = file(f"transformer.{diffusers_module(CONNECTOR)}")
    assert scale(of_connector, **packed(transformer__lora_alpha=16, **others)) == 8
    with pytest.raises(UserError, match="alpha is 'much'"):
        scale(file(), lora_alpha="much")
    with pytest.raises(UserError, match="is a DoRA"):
        scale(file(), **packed(transformer__use_dora=True))


def test_settings_of_kohya_count_for_its_own_keys(capsys):
    """Converters to other keys multiply the scale into the weights and keep the metadata."""
    kohya = {"ss_network_alpha": "16", "ss_network_dim": "4"}
    flat = "lora_unet_" + TO_OUT.replace(".", "_")
    assert scale(file(flat, SIDES[2]), **kohya) == 4
    assert not capsys.readouterr().err
    assert scale(file(), **kohya) == 1
    assert "ss_network_alpha 16 and ss_network_dim 4" in capsys.readouterr().err


def test_settings_of_peft_lie_beside_its_file(tmp_path):
    write_safetensors(tmp_path / "adapter_model.safetensors", file(f"base_model.model.{TO_OUT}"))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    ((_, b),) = load_lora(tmp_path / "adapter_model.safetensors").pairs.values()
    np.testing.assert_array_equal(b, 2 * pair()[1])


def test_a_matrix_stored_as_a_convolution_is_a_matrix():
    tensors = {key: x[..., None, None] for key, x in file().items()}
    np.testing.assert_array_equal(adapter_pairs(tensors)[TO_OUT][1], pair()[1])


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x.lora_A.weight": pair()[0]}, "only one half"),
        ({"x.alpha": np.float32(1)}, "only one half"),
        ({"x.weight": pair()[0], "y.weight": pair()[0]}, "no part of a LoRA: 'x.weight', 'y.weight'"),
        ({"x.lora_A.weight": pair()[0], "x.lora_B.weight": pair()[1].T}, "do not fit together"),
        ({}, "holds no LoRA"),
        (file("x") | file("x", SIDES[1]), "two LoRAs of 'x'"),
        (file("x", alpha=np.zeros(4)), "several alphas"),
        (file("x", alpha=np.float32(np.nan)), "no number"),
        (file("x", dora_scale=np.ones(5)), "kind DoRA"),
        (file("x", **{"lora_magnitude_vector.weight": np.ones(5)}), "kind DoRA"),
        ({"x.hada_w1_a": pair()[0]}, "kind LoHa"),
        ({"x.lokr_w1": pair()[0]}, "kind LoKr"),
        ({"x.oft_blocks": pair()[0]}, "kind OFT"),
        (file("x", **{"lora_B.bias": np.ones(5)}), "biases"),
        (file("x") | {"y.diff_b": np.ones(5)}, "differences"),
    ],
)
def test_mistakes_are_sentences(tensors, words):
    with pytest.raises(UserError, match=words):
        adapter_pairs(tensors)


def merged_with(tensors, metadata, path):
    """By what a file's product enters the first block's weight of the toy."""
    model = ltx_jax.load("toy")
    model = getattr(model, "bundle", model)
    write_safetensors(path, tensors, metadata)
    kernels = [
        np.asarray(m.params["transformer"]["blocks"]["video"]["attn1"]["to_q"]["kernel"])
        for m in (model, apply_loras(model, [(str(path), 1.0)]))
    ]
    a, b = list(tensors.values())[:2]
    assert np.array_equal(kernels[0][1:], kernels[1][1:])
    product = (b.astype(float) @ a).T
    return float(((kernels[1][0] - kernels[0][0]) * product).sum() / (product**2).sum())


@pytest.mark.parametrize(
    ("name", "sides", "alpha", "metadata", "right"),
    [
        (f"diffusion_model.{TO_Q}", SIDES[0], None, None, 1),
        (f"transformer.{TO_Q}", SIDES[0], None, {"lora_adapter_metadata": json.dumps(PACKED)}, 4),
        (f"transformer.{TO_Q}", SIDES[0], None, {"transformer.lora_alpha": "16", "transformer.r": "4"}, 4),
        ("lora_unet_model_" + TO_Q.replace(".", "_"), SIDES[2], 2, None, 0.5),
        (f"base_model.model.{TO_Q}", SIDES[0], None, None, 1),
        (f"diffusion_model.{TO_Q}", SIDES[0], [2], None, 0.5),
    ],
)
def test_a_merge_has_the_strength_that_the_file_says(name, sides, alpha, metadata, right, tmp_path):
    width = release("toy").transformer.stream("video").width
    tensors = dict(zip((f"{name}.{side}" for side in sides), pair(4, width, width), strict=True))
    if alpha is not None:
        tensors[f"{name}.alpha"] = np.array(alpha, np.float32)
    assert merged_with(tensors, metadata, tmp_path / "x.safetensors") == pytest.approx(right, abs=1e-3)


def test_a_merged_model_streams_onto_devices_and_the_base_stays(tmp_path):
    base, width, path = load_bundle("toy"), release("toy").transformer.stream("video").width, tmp_path / "x.safetensors"
    module = "diffusion_model.transformer_blocks.1.attn1.to_q"
    tensors = dict(zip((f"{module}.{side}" for side in SIDES[0]), pair(4, width, width), strict=True))
    write_safetensors(path, tensors)
    for shape in (MeshConfig(), MeshConfig(fsdp=2, tensor=2)):
        mesh = make_mesh(shape, jax.devices()[: 4 if shape.tensor == 2 else 1])
        merged = apply_loras(base, [(str(path), 0.5)])
        placed = place_parts(networks_on(mesh, base.release), merged.params, ("transformer",), mesh)["transformer"]
        kernel = lambda tree: np.asarray(tree["blocks"]["video"]["attn1"]["to_q"]["kernel"])
        product = 0.5 * (tensors[f"{module}.{SIDES[0][1]}"] @ tensors[f"{module}.{SIDES[0][0]}"]).T
        np.testing.assert_allclose(kernel(placed)[1], kernel(base.params["transformer"])[1] + product, atol=1e-5)
        np.testing.assert_array_equal(kernel(placed)[0], kernel(base.params["transformer"])[0])
        assert not merged.params._loaded, "nothing is read onto the host whole"
    held = Placed(networks_on(mesh, base.release), base.params, mesh)
    connectors = held.weights(("connectors", "transformer"))["connectors"]
    held.use(apply_loras(base, [(str(path), 0.5)]).params)
    assert held.weights(("connectors",))["connectors"] is connectors and "transformer" not in held._weights
    held.forget()
    assert held.weights(("connectors",))["connectors"] is not connectors


def test_a_lora_of_another_model_is_one_sentence(tmp_path, capsys):
    model = ltx_jax.load("toy")
    model = getattr(model, "bundle", model)
    path = tmp_path / "x.safetensors"

    def apply(*spelled, inputs):
        tensors = {}
        for name in spelled:
            tensors |= {f"{name}.lora_A.weight": np.ones((2, inputs)), f"{name}.lora_B.weight": np.ones((7, 2))}
        write_safetensors(path, tensors)
        apply_loras(model, [(str(path), 1.0)])

    with pytest.raises(UserError, match=r"another model: .* from 3 to 7 features, which in toy goes from \d+ to \d+"):
        apply("transformer.transformer_blocks.0.attn1.to_q", inputs=3)
    with pytest.raises(UserError, match=r"Nothing in .* 'a.1', 'a.2', 'a.3' and 1 more"):
        apply(*(f"a.{i}" for i in range(1, 5)), inputs=3)


def test_modules_of_the_toy_have_names_of_their_own():
    """Flattened names are told apart, in either spelling."""
    toy = release("toy")
    names = [name for part in ("transformer", "connectors") for name in find_part(toy, part).names_of(toy)]
    modules = [module for name in linear_names(names) for module in modules_of(name)]
    spelled = {name.replace(".", "_"): m for m in modules for name in (m, diffusers_module(m))}
    for name, module in spelled.items():
        assert list(adapter_pairs(file("lora_unet_" + name), modules=modules)) == [module]
