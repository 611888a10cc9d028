"""The toy: the whole system in a configuration that trains on two CPU cores. The default of train.py and sample.py.

    python train.py --config=configs/toy.py --workdir=runs/toy

The weights in ltx_jax/assets/toy were made by this command. Copy this file for an experiment of your own; every
setting that is not named here has its default in the dataclasses (python train.py prints the resolved whole).
"""

from ltx_jax.experiment import experiment_config


def get_config():
    """The toy release on the toy world."""
    config = experiment_config("toy")
    config.training.video_vae.update(steps=1200, batch_size=8, window=9, kl_weight=3e-5, sample_every=400)
    config.training.video_vae.optimizer.learning_rate = 1.5e-3
    return config
