"""Optional groups of settings: absent until one of their settings is given, from a config file or a flag."""

import pytest

from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment, experiment_config
from ltx_jax.training.lora import LoRAConfig


def test_an_optional_group_is_absent_until_one_setting_is_given():
    config = experiment_config("toy")
    assert Experiment.from_config(config).training.dit.lora is None
    config.training.dit.lora.rank = 8
    stage = Experiment.from_config(config).training.dit
    assert stage.lora == LoRAConfig(rank=8) and not stage.train_text


def test_mistakes_in_a_group_and_in_a_mixture_are_sentences():
    config = experiment_config("toy")
    config.training.dit.lora.rank = 1
    with pytest.raises(UserError, match="at least 2"):
        Experiment.from_config(config)
    config = experiment_config("toy")
    config.training.dit.modes = ("text_to_vdeo",)
    with pytest.raises(UserError, match="no training mode"):
        Experiment.from_config(config)
