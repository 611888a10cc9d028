"""Configurations read the released metadata word for word and write it back."""

import json
from pathlib import Path

import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.audio_vae.config import AudioVAEConfig, BandwidthConfig, GeneratorConfig, VocoderConfig

OFFICIAL = json.loads((Path(__file__).parents[2] / "golden/audio_vae/keys.json").read_text())["configs"]


def test_the_released_vae_config_round_trips():
    config = AudioVAEConfig.from_official(OFFICIAL["audio_vae"])
    assert (config.attn_resolutions, config.mid_block_add_attention, config.token_width) == ((), False, 128)
    assert AudioVAEConfig.from_official(json.loads(json.dumps(config.to_official()))) == config


def test_absent_fields_mean_the_reference_defaults():
    config = AudioVAEConfig.from_official({"variables": {"mel_bins": 64}})
    assert config == AudioVAEConfig()
    assert config.mid_block_add_attention and config.attn_resolutions == (8, 16, 32)


def test_null_causality_round_trips():
    config = AudioVAEConfig(causality_axis="none", norm_type="group")
    official = config.to_official()
    assert official["model"]["params"]["ddconfig"]["causality_axis"] is None
    assert AudioVAEConfig.from_official(official) == config


@pytest.mark.parametrize("name, rate, upsampling", [("vocoder_2_0", 24000, 240), ("vocoder_2_3_and_2_5", 48000, 480)])
def test_the_released_vocoder_configs_round_trip(name, rate, upsampling):
    config = VocoderConfig.from_official(OFFICIAL[name])
    assert (config.sampling_rate, config.upsampling) == (rate, upsampling)
    assert VocoderConfig.from_official(json.loads(json.dumps(config.to_official()))) == config


def test_the_extension_never_applies_a_final_activation():
    nested = OFFICIAL["vocoder_2_3_and_2_5"]
    nested = {**nested, "bwe": {**nested["bwe"], "apply_final_activation": True}}
    config = VocoderConfig.from_official(nested)
    assert config.bwe is not None and not config.bwe.apply_final_activation


@pytest.mark.parametrize(
    "build, word",
    [
        (lambda: AudioVAEConfig.from_official({"preprocessing": {}}), "mel_bins"),
        (lambda: AudioVAEConfig.from_official({"model": {"params": {"ddconfig": {"mel_bins": 64, "chh": 1}}}}), "chh"),
        (lambda: AudioVAEConfig.from_official({"model": 3}), "model"),
        (lambda: AudioVAEConfig(norm_type="group"), "causality_axis"),
        (lambda: AudioVAEConfig(double_z=False), "double_z"),
        (lambda: AudioVAEConfig(mel_bins=3), "too few"),
        (lambda: AudioVAEConfig(num_res_blocks=0), "num_res_blocks"),
        (lambda: GeneratorConfig(stereo=False), "stereo"),
        (lambda: GeneratorConfig(upsample_rates=(2,)), "upsample_rates"),
        (lambda: GeneratorConfig(upsample_initial_channel=33), "divisible"),
        (lambda: BandwidthConfig(upsample_rates=(6, 5, 2, 2, 1)), "hop_length"),
    ],
)
def test_mistakes_are_named(build, word):
    with pytest.raises(UserError, match=word):
        build()
