"""Train an audio-video model: the same as `ltx-jax-train`. See `python train.py --help`."""

from ltx_jax.tools.train import main

if __name__ == "__main__":
    main()
