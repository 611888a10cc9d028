"""Sample clips with sound: the same as `ltx-jax-sample`. See `python sample.py --help`."""

from ltx_jax.tools.sample import main

if __name__ == "__main__":
    main()
