"""A saved model reads back as it was, in the official layout; damaged files are refused by name."""

import json
import shutil

import jax
import numpy as np
import pytest

from ltx_jax.checkpoints.load import TOY, load_bundle
from ltx_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from ltx_jax.checkpoints.save import save_bundle
from ltx_jax.errors import UserError
from ltx_jax.parts import parts_of
from ltx_jax.releases import release


def test_round_trip_keeps_every_bit(tmp_path):
    first = load_bundle(TOY)
    save_bundle(first, tmp_path)
    second = load_bundle(tmp_path)
    assert first.release == second.release
    for part in (row.name for row in parts_of(first.release)):
        equal = jax.tree.map(np.array_equal, first.params[part], second.params[part])
        assert all(jax.tree.leaves(equal)), part


def test_the_layout_is_official():
    file = SafetensorsFile(TOY / "model.safetensors")
    assert set(json.loads(file.metadata["config"])) == {"transformer", "vae", "audio_vae", "vocoder"}
    for name in (
        "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight",
        "model.diffusion_model.video_embeddings_connector.learnable_registers",
        "text_embedding_projection.video_aggregate_embed.weight",
        "vae.encoder.conv_in.conv.weight",
        "audio_vae.per_channel_statistics.mean-of-means",
        "vocoder.conv_pre.weight",
    ):
        assert name in file


def test_the_shipped_weights_are_small():
    assert sum(f.stat().st_size for f in TOY.rglob("*") if f.is_file()) < 30e6


def _copy(tmp_path):
    shutil.copytree(TOY, tmp_path / "toy")
    return tmp_path / "toy"


def test_truncated_pickled_and_incomplete_files_are_refused(tmp_path):
    folder = _copy(tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    for damage, words in ((whole[:1000], "truncated"), (whole[:-10], "truncated"), (b"\x80\x02}q\x00.", "pickle")):
        (folder / "model.safetensors").write_bytes(damage)
        with pytest.raises(UserError, match=words):
            load_bundle(folder)


def test_a_missing_tensor_is_named(tmp_path):
    folder = _copy(tmp_path)
    file = SafetensorsFile(folder / "model.safetensors")
    tensors = {name: file[name] for name in file if name != "vae.decoder.conv_in.conv.weight"}
    write_safetensors(folder / "model.safetensors", tensors, file.metadata)
    with pytest.raises(UserError, match=r"vae\.decoder\.conv_in\.conv\.weight"):
        load_bundle(folder)


def test_folders_without_a_model_and_files_without_a_text_encoder(tmp_path):
    with pytest.raises(UserError, match="no finished model"):
        load_bundle(tmp_path)
    shutil.copy(TOY / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="text encoder"):
        load_bundle(tmp_path / "model.safetensors")


def test_the_shipped_weights_are_sampled_as_their_release_says():
    """Their file was written before some settings existed, whose defaults are those of the released models."""
    assert load_bundle("toy").release.sampling == release("toy").sampling
