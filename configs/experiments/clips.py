"""A folder of real videos, without captions or with, small enough to learn on two CPU cores.

    python train.py --config=configs/experiments/clips.py --workdir=runs/clips --config.data.path=FOLDER

The toy's model and sizes as they are; a start for an experiment of your own.
"""

from ltx_jax.experiment import experiment_config


def get_config():
    """The toy release, on the clips of data.path."""
    return experiment_config("toy")
