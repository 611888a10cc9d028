"""LTX-2.3 22B at full size: the transformer is trained, or adapted by LoRA, on prepared clips.

    python -m ltx_jax.tools.plan --config=configs/ltx2_3_22b.py --topology=v6e:4x4 --mode=train
    python train.py --config=configs/ltx2_3_22b.py --stage=dit --init_from=MODEL \\
        --workdir=runs/mine --config.data.path=CLIPS

Meant for 16 chips of v6e (25.6 of 32 GiB each, one clip of 121 frames of 768 x 512 per chip) or for eight of v5p
(45.9 of 95 GiB). By the compiler's roofline a step takes 0.96 to 1.9 s on the first and 1.8 to 2.5 s on the second.
These are plans, not runs (docs/scale.md); nothing was trained at this size. docs/training.md leads from a folder of
clips to a LoRA.
"""

from ltx_jax.experiment import full_size_config


def get_config():
    """The 2.3 release."""
    return full_size_config("ltx2_3_22b")
