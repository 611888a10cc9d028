"""Official tensor names and shapes of the audio parts, from the published tables."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.models.audio_vae.config import AudioVAEConfig, VocoderConfig
from ltx_jax.models.audio_vae.decoder import AudioDecoder
from ltx_jax.models.audio_vae.encoder import AudioEncoder
from ltx_jax.models.audio_vae.vocoder import Vocoder
from ltx_jax.models.layers import abstract_params
from ltx_jax.names import to_official, to_tree
from ltx_jax.names.audio_vae import audio_decoder_names, audio_encoder_names
from ltx_jax.names.vocoder import vocoder_names
from ltx_jax.parallel.rules import RULES

TABLES = json.loads((Path(__file__).parents[2] / "golden/audio_vae/keys.json").read_text())
VAE = AudioVAEConfig.from_official(TABLES["configs"]["audio_vae"])
UNUSUAL = AudioVAEConfig(
    ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(16,), resolution=32, z_channels=8, norm_type="group",
    causality_axis="none", mel_bins=8,
)  # fmt: skip
VOCODER_MEL = (1, 3, 64, 2)


def table(name, prefix):
    return {k.removeprefix(prefix): tuple(v) for k, v in TABLES[name].items() if k.startswith(prefix)}


def official_shapes(names, shapes):
    """{official name: shape} of our abstract parameters; zero-strided stand-ins, so nothing is allocated."""
    stand_ins = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), np.int8), s.shape), shapes)
    out = {}
    for name in names:
        leaf = stand_ins
        for key in name.path:
            leaf = leaf[key]
        assert leaf.ndim == len(name.axes or leaf.shape)
        out[name.official] = leaf.transpose(np.argsort(name.axes)).shape if name.axes else leaf.shape
    assert len(out) == len(jax.tree.leaves(shapes)) == len({n.path for n in names})
    return out


@pytest.mark.parametrize(
    "module, names, name, prefix, shape, count",
    [
        (AudioEncoder(VAE), audio_encoder_names(VAE), "audio_vae", "audio_vae.encoder.", (1, 5, 64, 2), 21_333_008),
        (AudioDecoder(VAE), audio_decoder_names(VAE), "audio_vae", "audio_vae.decoder.", (1, 2, 16, 8), 31_915_138),
    ],
    ids=["encoder", "decoder"],
)
def test_the_vae_has_the_official_tensors(mesh, module, names, name, prefix, shape, count):
    shapes, _ = abstract_params(module, jnp.zeros(shape))
    assert official_shapes(names, shapes) == table(name, prefix)
    assert sum(s.size for s in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize("name", ["vocoder_2_0", "vocoder_2_3_and_2_5"])
def test_the_vocoders_have_the_official_tensors(mesh, name):
    config = VocoderConfig.from_official(TABLES["configs"][name])
    shapes, axes = abstract_params(Vocoder(config), jnp.zeros(VOCODER_MEL))
    assert official_shapes(vocoder_names(config), shapes) == table(name, "vocoder.")
    names = jax.tree.leaves(axes)
    assert set(names) <= {*RULES, None}


@pytest.mark.parametrize(
    "module, names, shape",
    [
        (AudioEncoder(UNUSUAL), audio_encoder_names(UNUSUAL), (1, 4, 8, 2)),
        (AudioDecoder(UNUSUAL), audio_decoder_names(UNUSUAL), (1, 2, 4, 8)),
    ],
    ids=["encoder", "decoder"],
)
def test_attention_and_group_norm_round_trip(mesh, initialise, module, names, shape):
    params = initialise(module, jnp.zeros(shape))
    official = to_official(names, params)
    assert any(".attn.0.proj_out." in k for k in official) and "norm_out.weight" in official
    back = to_tree(names, official)
    jax.tree.map(np.testing.assert_array_equal, back, params)
