"""LTX-2 19B (release 2.0) at full size: the transformer is trained, or adapted by LoRA, on prepared clips.

    python -m ltx_jax.tools.plan --config=configs/ltx2_19b.py --topology=v6e:4x4 --mode=train
    python train.py --config=configs/ltx2_19b.py --stage=dit --init_from=MODEL \\
        --workdir=runs/mine --config.data.path=CLIPS

Meant for 16 chips of v6e (25.3 of 32 GiB each, one clip of 121 frames of 768 x 512 per chip), for eight of v5p (45.0
of 95 GiB) or for eight H100 (43.7 of 79 GiB). By the compiler's roofline a step takes 0.95 to 1.8 s on the first, 1.8
to 2.4 s on the second and 0.66 to 1.03 s on the third. A LoRA (training.dit.lora) fits one H100 (48.6 GiB, 0.47 s) or
four chips of v6e (18.0 GiB, 0.67 to 0.99 s). These are plans, not runs (docs/scale.md); nothing was trained at this
size.
"""

from ltx_jax.experiment import full_size_config


def get_config():
    """The 2.0 release."""
    return full_size_config("ltx2_19b")
