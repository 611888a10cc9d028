"""Measure the toy: does a clip show the colour that its prompt names, does it move, is its sound tonal.

    python -m ltx_jax.tools.evaluate [--checkpoint=DIR] [--prompts=64] [--seed=0] [--json]

Prompts are "a COLOUR SHAPE" over all colours and shapes of the toy world; chance is one in eight.
"""

import argparse
import json
import sys

from ltx_jax.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ltx_jax.tools.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", default=None, help="folder or file of weights (default: the shipped toy)")
    parser.add_argument("--prompts", type=int, default=64, help="number of prompts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="denoising steps (default: the release's)")
    parser.add_argument("--cfg", type=float, default=None, help="guidance scale (default: the release's)")
    parser.add_argument("--contact_sheet", default=None, help="also write all clips as one PNG here")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    from ltx_jax.evaluation.prompts import evaluate_prompts
    from ltx_jax.pipelines.runner import open_model

    if args.prompts < 1:
        raise UserError(f"prompts is {args.prompts}, but must be at least 1.")
    report = evaluate_prompts(
        open_model(args.checkpoint), args.prompts, args.seed, steps=args.steps, cfg=args.cfg, sheet=args.contact_sheet
    )
    if args.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name:<20} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
