"""Time every attention implementation on this device, or ask a compiler about ours for one that is not here.

    python benchmarks/attention.py                                  # a table: ours, jax.nn, JAX's own kernels, tokamax
    python benchmarks/attention.py --tokens=16384,16411 --widths=128
    python benchmarks/attention.py --autotune --output=row.json     # times our candidates: the row for the tile table
    python benchmarks/attention.py --aot=h100 --json [--all_tiles]  # v5e v5p v6e tpu7x h100 a100 ...: no device needed

Each implementation is compared with the reference first, on some rows, gradients too. Not causal; FLOPs are 4 B N T S K
forward and 10 B N T S K backward, whatever a kernel recomputes; the share is of the data sheet's peak, on a CPU of its
own matrix product; memory is what a call needs beside its arguments and results. Times are the least of `--repeats`.
Rows of a TPU compiler name the kernel's VMEM and its bundles: the length of its program, loops counted once, null where
libtpu does not write its schedule. They end with the 2.5 decoder's neighbourhood attention on a tile of its last stage.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if any(a.startswith("--aot") for a in sys.argv):
    for variable in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
from absl import flags
from attention_aot import rows as compiled_rows
from attention_kernels import all_tiles, default_tile, draw, families, implementations, ours

from ltx_jax import cli
from ltx_jax.errors import UserError
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.planning.topology import CHIPS

FLAGS = flags.FLAGS
CHECKED = 128  # query rows, from the end, that are compared with the reference
TOLERANCES = {2: 2e-2, 4: 1e-3}  # relative error by bytes of the dtype


@dataclasses.dataclass(frozen=True)
class Case:
    """One size. Arrays: q (B, T, N, K), k and v (B, S, N, K)."""

    batch: int
    tokens: int
    keys: int
    heads: int
    width: int
    dtype: str

    def arrays(self) -> tuple[jax.Array, ...]:
        """q, k, v and a cotangent of the output."""
        shape = lambda length: (self.batch, length, self.heads, self.width)
        lengths = (self.tokens, self.keys, self.keys, self.tokens)
        return tuple(draw(shape(n), seed, self.dtype) for seed, n in enumerate(lengths))

    def flops(self, direction: str) -> float:
        """Floating point operations of the exact products."""
        pairs = self.batch * self.heads * self.tokens * self.keys
        return (4.0 if direction == "forward" else 10.0) * pairs * self.width


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """The least time of a call over `repeats` measurements, each long enough for the clock."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    count = min(20, max(1, int(0.1 / max(time.perf_counter() - start, 1e-6))))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready([call() for _ in range(count)][-1])
        best = min(best, (time.perf_counter() - start) / count)
    return best


def peak() -> float:
    """FLOP/s of this device: of the data sheet, or on a CPU of a large float32 matrix product."""
    device = jax.devices()[0]
    kind = device.device_kind.lower().replace(" ", "").replace("lite", "e").replace("nvidia", "").replace("geforce", "")
    known = [chip for name, chip in CHIPS.items() if name in kind]
    if known:
        return known[0].flops
    if device.platform != "cpu":
        raise UserError(f"The peak of '{device.device_kind}' is not known; add it to planning/topology.py.")
    x = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(jnp.matmul)
    return 2 * 2048**3 / seconds(lambda: product(x, x), 5)


def error(attend: Any, arrays: tuple[jax.Array, ...]) -> float:
    """The largest relative error of output and gradients when only the last rows count, in the Frobenius norm."""
    q, k, v, weight = arrays
    some = min(CHECKED, q.shape[1])

    def loss(attend: Any, q: Any, k: Any, v: Any) -> Any:
        out = attend(q, k, v)[:, -some:]
        return jnp.sum(out.astype(jnp.float32) * weight[:, -some:].astype(jnp.float32)), out

    def reference(q: Any, k: Any, v: Any) -> Any:
        return reference_attention(*(x.astype(jnp.float32) for x in (q, k, v)), Mask(), AttentionSpec())

    both = lambda f, q: jax.jit(jax.grad(lambda *a: loss(f, *a), (0, 1, 2), has_aux=True))(q, k, v)
    with jax.default_matmul_precision("highest"):
        gradients, out = both(reference, q[:, -some:])
    own, found = both(attend, q)
    pairs = [(found, out), (own[0][:, -some:], gradients[0]), *zip(own[1:], gradients[1:], strict=True)]
    norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x)))
    return max(
        float(norm(a.astype(jnp.float32) - b.astype(jnp.float32)) / norm(b.astype(jnp.float32))) for a, b in pairs
    )


def compiled_pair(attend: Any, arrays: tuple[jax.Array, ...]) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Compiled forward and backward calls with their arguments."""
    q, k, v, weight = arrays
    forward = jax.jit(attend).lower(q, k, v).compile()
    _, pull = jax.jit(lambda *a: jax.vjp(attend, *a))(q, k, v)
    backward = jax.jit(lambda pull, d: pull(d)).lower(pull, weight).compile()
    return {"forward": (forward, (q, k, v)), "backward": (backward, (pull, weight))}


def measure(case: Case, repeats: int, most: float) -> list[dict[str, Any]]:
    """A row per implementation and direction; one that fails or is wrong says so and is not timed."""
    device, arrays = jax.devices()[0], case.arrays()
    found = []
    for name, attend in implementations(device.platform, device.device_kind, case.width, case.dtype).items():
        row: dict[str, Any] = {"implementation": name, **dataclasses.asdict(case)}
        try:
            row["error"] = error(attend, arrays)
            if not row["error"] <= TOLERANCES[jnp.dtype(case.dtype).itemsize]:
                found.append(row | {"problem": "wrong"})
                continue
            for direction, (call, arguments) in compiled_pair(attend, arrays).items():
                took = seconds(lambda call=call, arguments=arguments: call(*arguments), repeats)
                memory = call.memory_analysis()
                rate = case.flops(direction) / took
                row |= {"direction": direction, "ms": took * 1e3, "tflops": rate / 1e12, "share": rate / most}
                found.append(row | {"memory_mb": memory.temp_size_in_bytes / 1e6 if memory else 0.0})
        except Exception as failure:  # another's kernel may refuse lengths or dtypes, or run out of memory
            found.append(row | {"problem": (str(failure).splitlines() or [type(failure).__name__])[0][:60]})
    return found


def autotune(case: Case, repeats: int) -> dict[str, Any]:
    """The fastest tile of each direction, of the kernels that are the default on this device."""
    device, arrays = jax.devices()[0], case.arrays()
    family = families(device.platform, device.device_kind)[0]
    if family == "blocked":
        raise UserError("There are no kernels to tune on a CPU; run this where the TPU or the GPU is.")
    best: dict[str, tuple[float, Any]] = {}
    for tile in all_tiles(family, device.device_kind, case.width, case.dtype):
        try:
            calls = compiled_pair(ours(family, tile), arrays)
            times = {d: seconds(lambda c=c, a=a: c(*a), repeats) for d, (c, a) in calls.items()}
        except Exception as failure:  # too large for the device
            print(f"{tile}: {(str(failure).splitlines() or ['?'])[0][:80]}", file=sys.stderr, flush=True)
            continue
        print(f"{tile}: " + ", ".join(f"{d} {t * 1e3:.3f} ms" for d, t in times.items()), file=sys.stderr, flush=True)
        for direction, took in times.items():
            if direction not in best or took < best[direction][0]:
                best[direction] = took, tile
    default = default_tile(family, device.device_kind, case.width, case.dtype)
    row: dict[str, Any] = {"device_kind": device.device_kind, "family": family, "width": case.width}
    row |= {"tokens": case.tokens, "dtype": case.dtype, "default": repr(default)}
    for direction, (took, tile) in best.items():
        row |= {direction: repr(tile), f"{direction}_ms": took * 1e3}
    return row


def table(found: list[dict[str, Any]]) -> str:
    """Rows as text."""
    head = f"{'implementation':<22} {'B x T x S x N x K':<26} {'pass':<9} {'ms':>9} {'TFLOP/s':>8} {'of peak':>8}"
    lines = [f"{head} {'MB':>8} {'error':>8}"]
    for row in found:
        size = " x ".join(str(row[name]) for name in ("batch", "tokens", "keys", "heads", "width"))
        start = f"{row['implementation']:<22} {size:<26} "
        if "problem" in row:
            lines.append(f"{start}{row['problem']}" + (f" (error {row['error']:.1e})" if "error" in row else ""))
            continue
        figures = f"{row['ms']:9.3f} {row['tflops']:8.2f} {row['share']:8.1%} {row['memory_mb']:8.1f}"
        lines.append(f"{start}{row['direction']:<9} {figures} {row['error']:8.1e}")
    return "\n".join(lines)


def define_flags() -> None:
    """Define the flags of the benchmark."""
    cli.define_config()
    flags.DEFINE_string("aot", None, "Do not run: say what the compiler of v5e, v5p, v6e, tpu7x, h100, a100 ... says.")
    flags.DEFINE_bool("json", False, "One JSON line per row on stdout.")
    flags.DEFINE_bool("all_tiles", False, "With --aot: every candidate, not the default tile alone.")
    flags.DEFINE_bool("autotune", False, "Time the candidates of our kernel and print the row for the tile table.")
    flags.DEFINE_string("output", None, "With --autotune: a file that receives the rows, one JSON line each.")
    flags.DEFINE_list("tokens", None, "Numbers of query tokens (default: 16384,16411; on a CPU 512,515).")
    flags.DEFINE_integer("keys", None, "Number of keys (default: as many as queries).")
    flags.DEFINE_list("widths", ["64", "128"], "Head widths.")
    flags.DEFINE_integer("heads", None, "Heads (default: 4096 columns in all; on a CPU 2 heads).")
    flags.DEFINE_integer("batch", 1, "Samples.")
    flags.DEFINE_enum("dtype", None, ["bfloat16", "float16", "float32"], "Default: bfloat16; on a CPU float32.")
    flags.DEFINE_integer("repeats", 5, "Measurements of each time.")


def cases() -> list[Case]:
    """The cases that the flags describe."""
    small = jax.devices()[0].platform == "cpu"
    dtype = FLAGS.dtype or ("float32" if small else "bfloat16")
    try:
        tokens = [int(n) for n in FLAGS.tokens or (["512", "515"] if small else ["16384", "16411"])]
        widths = [int(n) for n in FLAGS.widths]
    except ValueError:
        raise UserError("--tokens and --widths take whole numbers, such as --tokens=16384,16411.") from None
    if min([*tokens, *widths]) < 1:
        raise UserError("--tokens and --widths take numbers above zero.")
    heads = lambda width: FLAGS.heads or (2 if small else max(1, 4096 // width))
    return [Case(FLAGS.batch, t, FLAGS.keys or t, heads(w), w, dtype) for w in widths for t in tokens]


def main() -> None:
    """Entry point."""
    define_flags()
    cli.run(_run, __doc__ or "")


def _run() -> None:
    if FLAGS.aot:
        for row in compiled_rows(FLAGS.aot, 16411, FLAGS.all_tiles):
            text = json.dumps(row) if FLAGS.json else "  ".join(f"{name} {value}" for name, value in row.items())
            print(text, flush=True)
        return
    if FLAGS.autotune:
        found = [autotune(case, FLAGS.repeats) for case in cases()]
        text = "\n".join(json.dumps(row) for row in found)
        print(text)
        if FLAGS.output:
            Path(FLAGS.output).write_text(text + "\n")
        return
    most = peak()
    if not FLAGS.json:
        print(f"{jax.devices()[0].device_kind}, peak {most / 1e12:.2f} TFLOP/s")
    found = [row for case in cases() for row in measure(case, FLAGS.repeats, most)]
    print("\n".join(json.dumps(row) for row in found) if FLAGS.json else table(found))


if __name__ == "__main__":
    main()
