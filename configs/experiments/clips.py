"""A folder of real videos, with captions or without, learned from the toy's weights in minutes on two CPU cores.

    python train.py --config=configs/experiments/clips.py --workdir=runs/clips --init_from=toy \
        --config.data.path=FOLDER

docs/clips.md says what this reaches on four public clips. Sizes are the toy's; longer training, larger sizes and more
clips are overrides of this file.
"""

from ltx_jax.experiment import experiment_config


def get_config():
    """The toy release, on the clips of data.path."""
    config = experiment_config("toy")
    training = config.training
    training.video_vae.update(steps=1500, batch_size=8, window=9, kl_weight=1e-3, sample_every=500)
    training.video_vae.optimizer.learning_rate = 5e-4
    training.audio_vae.update(steps=300, batch_size=8, window=97, segment=32, sample_every=300)
    training.audio_vae.optimizer.learning_rate = 2e-4
    training.dit.update(steps=600, batch_size=32, clips=512, sample_every=300)
    training.dit.optimizer.learning_rate = 5e-4
    return config
