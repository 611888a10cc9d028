"""The smallest run of the command line: adapters of a tiny model, all modes at once, on the toy world."""

from tiny import tiny_release

from ltx_jax.data.config import DataConfig
from ltx_jax.experiment import Experiment, as_config_dict
from ltx_jax.training.config import DiTStageConfig, TrainingConfig
from ltx_jax.training.lora import LoRAConfig
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig


def get_config():
    """Every setting, to be overridden by flags."""
    stage = DiTStageConfig(
        steps=40, batch_size=4, clips=12, checkpoint_every=5, log_every=1, sample_every=0,
        modes=("text_to_video", "image_to_video:2", "text_to_audio"), lora=LoRAConfig(rank=2, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-4, schedule=ScheduleConfig("constant")),
    )  # fmt: skip
    data = DataConfig(frames=5, height=16, width=16, size=12)
    return as_config_dict(Experiment(tiny_release(), data=data, training=TrainingConfig(dit=stage)))
