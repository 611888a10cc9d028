"""LTX-2 19B (release 2.0) at full size: transformer training on prepared latents, or planning it without hardware.

python -m ltx_jax.tools.plan --config=configs/ltx2_19b.py --topology=v6e:4x4 --mode=train
"""

from ltx_jax.experiment import experiment_config


def get_config():
    """The 2.0 release."""
    return experiment_config("ltx2_19b")
