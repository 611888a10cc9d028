"""The toy: the whole system in a configuration that trains on two CPU cores. The default of train.py and sample.py.

    python train.py --config=configs/toy.py --workdir=runs/toy

The weights in ltx_jax/assets/toy were made by this command. Copy this file for an experiment of your own; every
setting that is not named here has its default in the dataclasses (python train.py prints the resolved whole).
"""

from ltx_jax.experiment import experiment_config


def get_config():
    """The toy release on the toy world."""
    config = experiment_config("toy")
    training = config.training
    training.video_vae.update(steps=2000, batch_size=8, window=9, kl_weight=1e-3, sample_every=500)
    training.video_vae.optimizer.learning_rate = 5e-4
    training.audio_vae.update(steps=1000, batch_size=8, window=97, segment=32, sample_every=500)
    training.audio_vae.update(stft_weight=0.1, mel_weight=0.1, waveform_weight=1.0)
    training.audio_vae.optimizer.learning_rate = 5e-4
    training.dit.update(steps=1500, batch_size=32, clips=4096, sample_every=500)
    return config
