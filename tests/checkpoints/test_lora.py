"""LoRA: collections and files are inverse, a merge is what the layer computes."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ltx_jax.checkpoints import lora
from ltx_jax.errors import UserError
from ltx_jax.models.layers import Linear
from ltx_jax.names import linear

NAMES = [
    *linear("transformer_blocks.{i}.attn1.to_q", ("blocks", "video", "attn1", "to_q"), True, 2),
    *linear("transformer_blocks.{i}.audio_attn1.to_q", ("blocks", "audio", "attn1", "to_q"), True, 2),
    *linear("patchify_proj", ("video_entry", "patchify_proj")),
]


def pair(rank=2, inputs=3, outputs=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rank, inputs)).astype(np.float32), rng.normal(size=(outputs, rank)).astype(np.float32)


def test_unequal_ranks_are_padded_and_come_back_as_the_same_product():
    first, second = pair(2), pair(5, seed=1)
    pairs = {"transformer_blocks.0.attn1.to_q": first, "transformer_blocks.1.attn1.to_q": second}
    tree = lora.lora_tree(pairs, NAMES)
    leaf = tree["blocks"]["video"]["attn1"]["to_q"]
    assert leaf["a"].shape == (2, 3, 5) and leaf["b"].shape == (2, 5, 4) and list(tree) == ["blocks"]
    back = lora.adapter_pairs(lora.lora_tensors(tree, NAMES, scale=0.5))
    assert back.keys() == pairs.keys()
    only_one = lora.lora_tree({"transformer_blocks.1.attn1.to_q": first}, NAMES)
    assert list(lora.adapter_pairs(lora.lora_tensors(only_one, NAMES))) == ["transformer_blocks.1.attn1.to_q"]
    for module, (a, b) in pairs.items():
        np.testing.assert_allclose(back[module][1] @ back[module][0], 0.5 * (b @ a), rtol=1e-5)


def test_a_merge_is_what_the_adapted_layer_computes():
    rng = np.random.default_rng(2)
    kernel, x = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(5, 3)).astype(np.float32)
    params = {"blocks": {"video": {"attn1": {"to_q": {"kernel": kernel, "bias": np.zeros((2, 4))}}}}}
    pairs = {"transformer_blocks.1.attn1.to_q": pair()}
    names = NAMES[:2]
    merged = lora.merge_params(params, names, [pairs], [0.5])["blocks"]["video"]["attn1"]["to_q"]
    np.testing.assert_array_equal(merged["kernel"][0], kernel[0])
    tree = lora.lora_tree(pairs, names)["blocks"]["video"]["attn1"]["to_q"]
    collection = {"a": jnp.asarray(tree["a"][1]), "b": jnp.asarray(tree["b"][1]) * 0.5}
    layer = Linear(4, ("embed", "heads"), False)
    adapted = layer.apply({"params": {"kernel": jnp.asarray(kernel[1])}, "lora": collection}, x)
    np.testing.assert_allclose(adapted, x @ merged["kernel"][1], rtol=1e-5, atol=1e-5)
    assert params["blocks"]["video"]["attn1"]["to_q"]["kernel"] is kernel  # the base is untouched


def test_targets_end_at_a_component():
    found = lambda *patterns: [n.official for n in lora.targeted(NAMES, patterns)]
    assert found("attn1.to_q") == ["transformer_blocks.{i}.attn1.to_q.weight"]
    assert len(found("to_q")) == 2
    with pytest.raises(UserError, match="matches no linear layer"):
        found("to_q", "nothing")
    single = lora.targeted(NAMES, ("0.attn1.to_q", "transformer_blocks.1.audio_attn1.to_q", "patchify_proj"))
    assert [hit.tolist() for hit in single.values()] == [[True, False], [False, True], [True]]


def test_a_file_keeps_dtype_and_metadata(tmp_path):
    tree = lora.lora_tree({"patchify_proj": pair()}, NAMES)
    lora.save_lora(tmp_path / "x.safetensors", tree, NAMES, metadata={"reference_downscale_factor": "2"})
    read = lora.load_lora(tmp_path / "x.safetensors")
    assert read.metadata["reference_downscale_factor"] == "2"
    assert read.pairs["patchify_proj"][0].dtype == ml_dtypes.bfloat16


def test_a_weight_of_another_size_is_refused():
    with pytest.raises(UserError, match="is for a weight of"):
        lora.merge_tensors({"x.weight": np.zeros((9, 9), np.float32)}, [{"x": pair()}], [1.0], np.float32)


def test_strengths_on_the_command_line(tmp_path):
    assert lora.parse_lora("a/b.safetensors") == ("a/b.safetensors", 1.0)
    assert lora.parse_lora("a/b.safetensors:0.5") == ("a/b.safetensors", 0.5)
    assert lora.parse_lora("a/b.safetensors,-1") == ("a/b.safetensors", -1.0)
    (tmp_path / "odd:1").touch()
    assert lora.parse_lora(str(tmp_path / "odd:1")) == (str(tmp_path / "odd:1"), 1.0)
    for text in ("file:strong", "file:nan", "file,inf"):
        with pytest.raises(UserError, match="takes a path"):
            lora.parse_lora(text)
