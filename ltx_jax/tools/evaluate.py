"""Measure a model: on prompts of the toy world, or on how well its video autoencoder keeps real clips.

    python -m ltx_jax.tools.evaluate [--checkpoint=DIR] [--prompts=200] [--seed=0] [--sheet=OUT.png] [--json]
    python -m ltx_jax.tools.evaluate --suite=ceiling           true clips through the model's autoencoders
    python -m ltx_jax.tools.evaluate --compare A B             two models on the same prompts
    python -m ltx_jax.tools.evaluate --checkpoint=DIR --reconstruct=FOLDER_OF_VIDEOS

The first asks, from pixels and samples alone, whether clips show the colours, shapes, sizes and background that their
prompts name and as many bodies, stay inside, and sound when they bounce; half of the prompts name combinations that no
training clip shows. Beside each score stand its 95% interval (bootstrap) and what chance would reach. The last prints
PSNR in dB per file.
"""

import argparse
import json
import sys
from typing import Any

from ltx_jax.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ltx_jax.tools.evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", default="toy", help="folder or file of weights (default: the shipped toy)")
    parser.add_argument("--compare", nargs=2, default=None, metavar="MODEL", help="two models on the same prompts")
    parser.add_argument("--suite", default="toy", help="toy, ceiling or truth")
    parser.add_argument("--prompts", type=int, default=200, help="number of prompts")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts and of the model's noise")
    parser.add_argument("--steps", type=int, default=None, help="denoising steps (default: the release's)")
    parser.add_argument("--cfg", type=float, default=None, help="guidance scale (default: the release's)")
    parser.add_argument("--sheet", default=None, metavar="PNG", help="also draw clips with what is heard here")
    parser.add_argument("--reconstruct", default=None, metavar="FOLDER", help="PSNR of these videos' reconstructions")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON instead of a table")
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    if args.reconstruct is not None:
        from ltx_jax.checkpoints.load import load_bundle
        from ltx_jax.evaluation.reconstruction import evaluate_reconstruction

        found = evaluate_reconstruction(load_bundle(args.checkpoint), args.reconstruct)
        print(json.dumps(found) if args.json else "\n".join(f"{name:<28} {value:.2f}" for name, value in found.items()))
        return 0
    if args.compare is not None:
        _compare(args)
        return 0
    measured = _measure(args, args.checkpoint)
    if args.sheet:
        from ltx_jax.evaluation.sheet import write_sheet

        write_sheet(measured, args.sheet)
    report = measured.report()
    print(json.dumps(report) if args.json else _table(measured, report))
    return 0


def _measure(args: argparse.Namespace, checkpoint: str) -> Any:
    from ltx_jax.evaluation.suites import SUITES
    from ltx_jax.pipelines.sampler import open_model

    if args.suite not in SUITES:
        raise UserError(f"There is no suite '{args.suite}'; known: {', '.join(SUITES)}.")
    return SUITES[args.suite](open_model(checkpoint).sampler, args.prompts, args.seed, steps=args.steps, cfg=args.cfg)


def _table(measured: Any, report: dict[str, Any]) -> str:
    from ltx_jax.evaluation.scores import chance, interval

    edges, luck = interval(measured.table), chance(measured.wanted, measured.clips)
    rows = [f"{'score':<16}{'share':>8}   {'95% interval':<16}{'chance':>8}"]
    for name, value in (report["scores"] | report["details"]).items():
        if name not in edges or value is None:
            continue
        low, high = edges[name]
        by_chance = f"{luck[name]:8.1%}" if name in luck else ""
        rows.append(f"{name:<16}{value:8.1%}   {f'{low:.1%} to {high:.1%}':<16}{by_chance}")
    rows.append(f"{'bounce to tone':<16}{report['sync_offset_ms'] or float('nan'):8.1f} ms (median)")
    rows.append(f"{'frechet':<16}{report['frechet']:8.3f}   truth against truth {report['frechet_floor']}")
    if report["details"]["diversity"] is not None:
        rows.append(f"{'diversity':<16}{report['details']['diversity']:8.2f}   of the truth's spread")
    kept = report["reconstruction"]
    if kept:
        width = lambda name: "wider than can be told" if kept[name] is None else f"{kept[name]:.2f} px"
        rows.append(f"{'picture kept':<16}{kept['psnr']:8.2f} dB")
        rows.append(f"{'edge, 10 to 90%':<18}{width('edge_px')}, of the truth {width('edge_px_truth')}")
        rows.append(f"{'log-mel L1':<16}{kept['mel_l1']:8.3f}")
        rows.append(f"{'vocoder, STFT':<16}{kept['vocoder_stft']:8.3f}   on true log-mel")
    return "\n".join(rows)


def _compare(args: argparse.Namespace) -> None:
    from ltx_jax.evaluation.scores import difference, means

    first, second = (_measure(args, name).table for name in args.compare)
    found, before, after = difference(first, second), means(first), means(second)
    if args.json:
        rows = {n: {"first": before[n], "second": after[n], "difference": gain} for n, gain in found.items()}
        print(json.dumps(rows))
        return
    print(f"{'score':<16}{'first':>8}{'second':>8}   difference (95% interval)")
    for name, (gain, low, high) in found.items():
        print(f"{name:<16}{before[name]:8.1%}{after[name]:8.1%}   {gain:+.1%} ({low:+.1%} to {high:+.1%})")


if __name__ == "__main__":
    sys.exit(main())
