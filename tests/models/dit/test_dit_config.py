import dataclasses
import json
from pathlib import Path

import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.dit.config import EXTRACTOR_PROJECTION, INERT, DiTConfig

RELEASES = json.loads((Path(__file__).parents[2] / "golden/dit/keys.json").read_text())["releases"]


@pytest.mark.parametrize("release", RELEASES)
def test_official_metadata_round_trips(release):
    official = RELEASES[release]["config_transformer"]
    config = DiTConfig.from_official(official)
    written = json.loads(json.dumps(config.to_official()))
    assert DiTConfig.from_official(written) == config
    assert {k: written[k] for k in official if k in written} == {k: official[k] for k in official if k in written}
    assert hash(config) == hash(dataclasses.replace(config))


def test_releases_say_what_differs():
    old, middle, new = (DiTConfig.from_official(RELEASES[r]["config_transformer"]) for r in ("2.0", "2.3", "2.5"))
    assert (old.video_width, old.audio_width, old.modulation_rows, middle.modulation_rows) == (4096, 2048, 6, 9)
    assert not old.caption_proj_before_connector and old.caption_channels == 3840
    assert (middle.ff_bias, new.ff_bias, new.audio_ff_bias) == (True, False, True)
    assert {c.av_ca_timestep_scale_multiplier for c in (old, middle, new)} == {1000.0}
    assert DiTConfig(caption_channels=1).av_ca_timestep_scale_multiplier == 1  # the reference's own default


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_layer": 3}, "num_layers"),
        ({"cross_attention_dim": 64}, "video width"),
        ({"audio_cross_attention_dim": 64}, "audio width"),
        ({"audio_num_attention_heads": 16, "audio_attention_head_dim": 128}, "must be equal"),
        ({"attention_head_dim": 127, "cross_attention_dim": 32 * 127}, "even"),
        ({"qk_norm": "layer_norm"}, "qk_norm"),
        ({"share_ff": True}, "share_ff"),
        ({"rope_type": "spiral"}, "rope_type"),
        ({"use_middle_indices_grid": False}, "use_middle_indices_grid"),
        ({"caption_proj_input_norm": True}, "caption projection"),
        ({"num_layers": 0}, "num_layers"),
        ({"positional_embedding_max_pos": [20, 2048]}, "3 entries"),
    ],
)
def test_bad_metadata_gets_a_sentence(change, words):
    official = RELEASES["2.3"]["config_transformer"]
    with pytest.raises(UserError, match=words) as error:
        DiTConfig.from_official({**official, **change})
    assert "\n" not in str(error.value)


def test_caption_projection_keys_come_all_or_none():
    official = RELEASES["2.0"]["config_transformer"]
    with pytest.raises(UserError, match="caption projection"):
        DiTConfig.from_official({**official, "caption_proj_before_connector": True})
    assert DiTConfig.from_official({**official, **EXTRACTOR_PROJECTION}).caption_proj_before_connector
    without = {k: v for k, v in official.items() if k != "caption_channels"}
    with pytest.raises(UserError, match="caption_channels"):
        DiTConfig.from_official(without)


def test_only_the_exact_string_makes_the_frequency_table_precise():
    official = RELEASES["2.0"]["config_transformer"]
    for value, expected in (("float64", "float64"), (False, "float32"), ("double", "float32")):
        assert DiTConfig.from_official({**official, "frequencies_precision": value}).frequencies_precision == expected


def test_single_stream_models_do_not_look_at_the_other_stream():
    official = {**RELEASES["2.3"]["config_transformer"], "audio_num_attention_heads": 7, "share_ff": True}
    assert DiTConfig.from_official(official, "video").modalities == ("video",)
    with pytest.raises(UserError):
        DiTConfig.from_official(official, "audio")
    assert INERT["share_ff"] is False
