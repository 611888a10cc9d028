"""A folder of real videos, without captions or with, small enough to learn on two CPU cores.

    python train.py --config=configs/experiments/clips.py --workdir=runs/clips --config.data.path=FOLDER

The video VAE compresses less than the toy's (8 instead of 16 pixels a side), because real pictures have detail.
"""

from ltx_jax.experiment import experiment_config


def get_config():
    """The toy release with a finer video VAE, on real clips."""
    config = experiment_config("toy")
    return config
