"""Measure a model: on prompts of the toy world, or on how well its video autoencoder keeps real clips.

    python -m ltx_jax.tools.evaluate [--checkpoint=DIR] [--prompts=64] [--seed=0] [--json]
    python -m ltx_jax.tools.evaluate --checkpoint=DIR --reconstruct=FOLDER_OF_VIDEOS

The first asks whether a clip shows the colour that its prompt names, moves, and sounds tonal; prompts are "a COLOUR
SHAPE" over all colours and shapes of the toy world, and chance is one in eight. The second prints PSNR in dB per file.
"""

import argparse
import json
import sys

from ltx_jax.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ltx_jax.tools.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", default="toy", help="folder or file of weights (default: the shipped toy)")
    parser.add_argument("--prompts", type=int, default=64, help="number of prompts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="denoising steps (default: the release's)")
    parser.add_argument("--cfg", type=float, default=None, help="guidance scale (default: the release's)")
    parser.add_argument("--contact_sheet", default=None, help="also write all clips as one PNG here")
    parser.add_argument("--reconstruct", default=None, metavar="FOLDER", help="PSNR of these videos' reconstructions")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    report = _report(args)
    if args.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name:<28} {round(value, 2)}")
    return 0


def _report(args: argparse.Namespace) -> dict[str, float]:
    if args.reconstruct is not None:
        from ltx_jax.checkpoints.load import load_bundle
        from ltx_jax.evaluation.reconstruction import evaluate_reconstruction

        return evaluate_reconstruction(load_bundle(args.checkpoint), args.reconstruct)
    from ltx_jax.evaluation.prompts import evaluate_prompts
    from ltx_jax.pipelines.sampler import open_model

    if args.prompts < 1:
        raise UserError(f"prompts is {args.prompts}, but must be at least 1.")
    settings = {"steps": args.steps, "cfg": args.cfg, "sheet": args.contact_sheet}
    return evaluate_prompts(open_model(args.checkpoint).sampler, args.prompts, args.seed, **settings)


if __name__ == "__main__":
    sys.exit(main())
