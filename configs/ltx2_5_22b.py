"""LTX-2.5 22B at full size: the transformer is trained, or adapted by LoRA, on prepared clips.

    python -m ltx_jax.tools.plan --config=configs/ltx2_5_22b.py --topology=v6e:4x4 --mode=train
    python train.py --config=configs/ltx2_5_22b.py --stage=dit --init_from=MODEL \\
        --workdir=runs/mine --config.data.path=CLIPS

Meant for the hardware of configs/ltx2_3_22b.py, whose transformer this one is but for biases of its MLPs and an
embedding of keyframes; its own figures stand in no page, the first command prints them. Its text encoder is Gemma 4.
"""

from ltx_jax.experiment import full_size_config


def get_config():
    """The 2.5 release."""
    return full_size_config("ltx2_5_22b")
