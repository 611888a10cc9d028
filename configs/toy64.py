"""The next toy: 64 x 64 pixels, 25 frames with two seconds of sound, of the world with exact bounces.

    python train.py --config=configs/toy64.py --workdir=runs/toy64

It takes the place of configs/toy.py when its weights are better than those that ship today.
"""

from ltx_jax.experiment import experiment_config

# What sampling asks of the model, and how much of the training each takes. Words alone come first: with them the model
# learns the world that all the others continue.
MODES = (
    "text_to_video:6", "image_to_video:2", "keyframes:1.5", "video_prefix:1.5", "video_suffix:0.5",
    "video_inpainting:1", "audio_to_video:1", "video_to_audio:1", "text_to_audio:0.5", "video_reference:1",
)  # fmt: skip


def get_config():
    """The toy of 16 x 16 x 4 compression on the exact world."""
    config = experiment_config("toy64")
    config.data.update(world="exact", width=64, height=64, frames=25, fps=12.5)
    config.model.spatial_upsampler.update(in_channels=64, mid_channels=64, num_blocks_per_stage=2)
    training = config.training
    for stage in (training.video_vae, training.audio_vae, training.upsampler, training.dit):
        stage.checkpoint_every = 200  # it runs where others come first, and may be stopped at any time
    training.video_vae.update(steps=4000, batch_size=8, window=9, kl_weight=1e-6, sample_every=1000)
    training.video_vae.optimizer.update(name="muon", learning_rate=2e-3)
    training.audio_vae.update(steps=4000, batch_size=8, window=97, segment=32, sample_every=1000)
    training.audio_vae.update(stft_weight=0.1, mel_weight=0.1, waveform_weight=1.0)
    training.audio_vae.optimizer.update(name="muon", learning_rate=1e-3)
    training.upsampler.update(steps=2000, batch_size=16)
    training.dit.update(steps=8000, batch_size=32, clips=8192, shrink=(1, 2), sample_every=2000)
    training.dit.update(modes=MODES, keyframes=2, remat="none")
    training.dit.reference.update(downscale=2, temporal=1)
    training.dit.optimizer.update(name="muon", learning_rate=1e-3)
    return config
