"""LTX-2 19B (release 2.0) at full size: transformer training on prepared latents, or planning it without hardware.

python -m ltx_jax.tools.plan --config=configs/ltx2_19b.py --topology=v6e:4x4 --mode=train
"""

from ltx_jax.experiment import experiment_config


def get_config():
    """The 2.0 release."""
    config = experiment_config("ltx2_19b")
    config.training.dit.update(train_text=False, dtype="bfloat16", remat="full", ema_decay=0.0)
    config.training.dit.guard.update(max_skipped=10, spike=20.0)
    config.data.update(frames=121, height=512, width=768, fps=24.0)
    return config
