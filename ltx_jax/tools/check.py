"""Run recorded reference cases against this implementation.

    python -m ltx_jax.tools.check FILE.safetensors [...] [--json]

Prints, per output, the largest error against its tolerance and pass or FAIL. Exit code 0: all pass; 1: a case fails;
2: a file could not be read or is of a kind not known (the others still run).
"""

import argparse
import json
import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ltx_jax.tools.check", description="Run recorded reference cases.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="recorded cases (.safetensors)")
    parser.add_argument("--json", action="store_true", help="one JSON object per file instead of a table")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_args(argv)

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # recordings are float32 references; set it yourself for a device
    from ltx_jax.conformance.check import check_file
    from ltx_jax.errors import UserError

    code = 0
    for path in args.files:
        kind, results, error = None, [], None
        try:
            kind, results = check_file(path)
        except UserError as e:
            error, code = str(e), 2
        except Exception as e:
            if args.debug:
                raise
            error, code = (
                f"'{path}' could not be run: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}",
                2,
            )
        passed = bool(results) and all(r.passed for r in results)
        if error is None and not passed:
            code = max(code, 1)
        print(
            _json(path, kind, results, error, passed) if args.json else _table(path, kind, results, error), flush=True
        )
    return code


def _json(path: str, kind: str | None, results: list, error: str | None, passed: bool) -> str:
    problems = [f"{r.name}: {r.problem}" for r in results if r.problem]
    finite = [r.error for r in results if r.error != float("inf")]
    worst = max((r.error for r in results), default=None)
    if worst == float("inf"):
        worst = 1e30 if problems or not finite else max(1e30, *finite)  # JSON has no infinity
    line = {
        "file": path,
        "kind": kind,
        "pass": passed,
        "error": error or "; ".join(problems) or None,
        "max_error": worst,
    }
    return json.dumps(line)


def _table(path: str, kind: str | None, results: list, error: str | None) -> str:
    if error:
        return f"{path}: {error}"
    lines = [f"{path} [{kind}]"]
    for r in results:
        verdict = "pass" if r.passed else "FAIL"
        detail = r.problem or f"error {r.error:.3g} of tolerance, |difference| {r.difference:.3g}"
        lines.append(f"  {r.name:<32} {verdict}  {detail}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
