"""The smallest release of the training tests, as an experiment to plan."""

import dataclasses
import sys
from pathlib import Path

import pytest

from ltx_jax.experiment import Experiment

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))


@pytest.fixture
def tiny() -> Experiment:
    from tiny import tiny_release

    experiment = Experiment(model=tiny_release())
    stage = dataclasses.replace(experiment.training.dit, train_text=False, ema_decay=0.0, dtype="bfloat16")
    return dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, dit=stage))
