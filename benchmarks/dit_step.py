"""Time the transformer's blocks on this device, or ask a compiler about the whole stack on one that is not here.

    python benchmarks/dit_step.py                        # full width, few layers, forward and forward+backward
    python benchmarks/dit_step.py --size=toy             # the toy's width and sizes
    python benchmarks/dit_step.py --aot=v6e:2x4 --json   # 48 layers, bfloat16: bytes per chip and compile time

On a CPU with the extra `parity` installed the PyTorch implementation of diffusers runs beside ours on the same weights
and inputs, in turns; times are medians of `--repeats`, of the clock and (cpu) of all threads together, which says
more where the machine is shared; a ratio is the median of the turns' ratios. The share of the peak is of the data
sheet, on a CPU of its own matrix product.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

if any(a.startswith("--aot") for a in sys.argv):
    for variable in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh

from ltx_jax import cli
from ltx_jax.diffusion.geometry import audio_positions, video_positions
from ltx_jax.errors import UserError
from ltx_jax.models.dit.config import DiTConfig
from ltx_jax.models.dit.rope import rotary_tables
from ltx_jax.models.dit.transformer import DiT, example_inputs
from ltx_jax.models.layers import abstract_params
from ltx_jax.parallel.chips import CHIPS
from ltx_jax.parallel.flops import jaxpr_flops
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import Program, batch_like, make_program, place, replicated_like, with_shardings
from ltx_jax.parallel.rules import param_shardings
from ltx_jax.planning.topology import topology
from ltx_jax.releases import release
from ltx_jax.streams import Context, Stream

FLAGS = flags.FLAGS
FPS = 24.0


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of one benchmark. grid: latent frames, rows, columns. audio, text: tokens. dtype: weights and compute."""

    config: DiTConfig
    factors: tuple[int, int, int]  # pixels per latent cell
    grid: tuple[int, int, int]
    audio: int
    text: int
    batch: int
    dtype: str
    remat: str = "none"

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    def module(self) -> DiT:
        dtype = jnp.dtype(self.dtype)
        return DiT(self.config, dtype, dtype, self.remat)

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the video and audio tokens, (1, axes, T, 2) float32."""
        return video_positions(*self.grid, FPS, self.factors), audio_positions(self.audio)

    def arrays(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Random latents (B, T, C), contexts (B, S, E) and one sigma for all, (B,) float32."""
        normal = lambda *shape: rng.standard_normal((self.batch, *shape), np.float32)
        own = self.config.caption_proj_before_connector
        width = lambda m: self.config.stream(m).width if own else self.config.caption_channels
        return {
            "video": normal(self.tokens, self.config.in_channels),
            "audio": normal(self.audio, self.config.audio_in_channels),
            "video_text": normal(self.text, width("video")),
            "audio_text": normal(self.text, width("audio")),
            "sigma": np.full((self.batch,), 0.7, np.float32),
        }

    def inputs(self, arrays: dict[str, np.ndarray]) -> tuple[Stream, Stream, Any, Any]:
        """What the transformer takes; the text in the compute type."""
        tables: Any = rotary_tables(self.config, *self.positions())
        stream = lambda m: Stream(
            arrays[m],
            arrays["sigma"],
            arrays["sigma"][:, None],
            tables[m],
            cross_rotary=tables[f"{m}_cross"],  # type: ignore
        )
        text = lambda m: arrays[f"{m}_text"].astype(jnp.dtype(self.dtype))
        return stream("video"), stream("audio"), text("video"), text("audio")


def make_forward(case: Case, mesh: Mesh, *, gradient: bool = False) -> Program:
    """The forward pass (params, video, audio, texts) -> velocities, or the gradient of their sum of squares."""
    module = case.module()

    def forward(params: Any, video: Stream, audio: Stream, video_text: Any, audio_text: Any) -> Any:
        return module.apply({"params": params}, video, audio, Context(video_text), Context(audio_text))

    def loss(params: Any, video: Stream, audio: Stream, video_text: Any, audio_text: Any) -> Any:
        return sum(jnp.sum(jnp.square(v)) for v in forward(params, video, audio, video_text, audio_text))

    with jax.set_mesh(mesh):
        shapes, axes = abstract_params(module, *example_inputs(case.config))
    shardings = param_shardings(axes, shapes, mesh)
    inputs = case.inputs({k: np.broadcast_to(np.float32(0), x) for k, x in _shapes(case).items()})
    names = ("video", "audio", "video_text", "audio_text")
    abstract = {name: _shard_inputs(x, mesh) for name, x in zip(names, inputs, strict=True)}
    function, out = (jax.grad(loss), shardings) if gradient else (forward, None)
    arguments = {"params": with_shardings(shapes, shardings), **abstract}
    return make_program(function, arguments, mesh, out_shardings=out, weights=["params"])


def _shapes(case: Case) -> dict[str, tuple[int, ...]]:
    small = dataclasses.replace(case, batch=1)
    return {k: (case.batch, *x.shape[1:]) for k, x in small.arrays(np.random.default_rng(0)).items()}


def _shard_inputs(x: Any, mesh: Mesh) -> Any:
    """Sharded over the batch, position tables replicated."""
    if not isinstance(x, Stream):
        return batch_like(x, mesh)
    tables = {name: getattr(x, name) for name in ("rotary", "cross_rotary")}
    rest = batch_like(x.replace(rotary=None, cross_rotary=None), mesh)  # type: ignore[attr-defined]
    return rest.replace(**{name: replicated_like(table, mesh) for name, table in tables.items()})


# --- ahead of time --------------------------------------------------------------------------------------------------


def ahead_of_time(name: str) -> dict[str, Any]:
    """Bytes per chip (GB = 1e9) and seconds of the 2.0 forward pass: 6,144 + 126 tokens, 1,024 of text, batch 2."""
    target, model = topology(name), release("ltx2_19b")
    factors = model.video_vae.scale_factors
    case = Case(model.transformer, factors, (16, 16, 24), 126, 1024, 2, "bfloat16")
    mesh = make_mesh(MeshConfig(data=1, tensor=-1), target.devices)  # weights stay where they are: nothing to gather
    start, cpu = time.monotonic(), time.process_time()
    memory = make_forward(case, mesh).compile().memory_analysis()
    return {
        "arguments_gb": memory.argument_size_in_bytes / 1e9,
        "temporaries_gb": memory.temp_size_in_bytes / 1e9,
        "compile_s": time.monotonic() - start,
        "compile_cpu_s": time.process_time() - cpu,
        "mesh": dict(mesh.shape),
    }


# --- on this device -------------------------------------------------------------------------------------------------


def measure(case: Case, repeats: int, torch: bool) -> list[dict[str, Any]]:
    """One row for forward and one for forward+backward."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
    arrays = case.arrays(np.random.default_rng(0))
    forward = make_forward(case, mesh)
    params = _random_params(forward.arguments["params"])
    rival = None
    if torch:
        from dit_torch import Rival

        rival = Rival(case, params, arrays)
    given = (params, *case.inputs(arrays))
    placed = tuple(place(x, a) for x, a in zip(given, forward.arguments.values(), strict=True))
    del params
    peak = _peak(mesh)
    rows = []
    for name, program in (("forward", forward), ("forward+backward", make_forward(case, mesh, gradient=True))):
        compiled = program.compile()
        ours = lambda compiled=compiled: jax.block_until_ready(compiled(*placed))
        theirs = None if rival is None else (rival.forward if name == "forward" else rival.gradient)
        times = _turns(ours, theirs, repeats)
        seconds, busy = np.median(times[0], axis=0)
        flops = _flops(case, mesh, gradient=name != "forward")
        memory = compiled.memory_analysis()
        row = {"pass": name, "ms": seconds * 1e3, "tflops": flops / seconds / 1e12, "mfu": flops / seconds / peak}
        row["memory_gb"] = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9
        if rival is not None:
            other, other_busy = np.median(times[1], axis=0)
            ratio, cpu_ratio = np.median(times[1] / times[0], axis=0)
            row |= {"pytorch_ms": other * 1e3, "ratio": ratio}
            row |= {"cpu_ms": busy * 1e3, "pytorch_cpu_ms": other_busy * 1e3, "cpu_ratio": cpu_ratio}
            if name == "forward":
                row["difference"] = rival.difference(ours())
        rows.append(row)
    return rows


def _flops(case: Case, mesh: Mesh, gradient: bool) -> float:
    """FLOPs of the pass, without what is computed twice to save memory."""
    program = make_forward(dataclasses.replace(case, remat="none"), mesh, gradient=gradient)
    return jaxpr_flops(program.trace().jaxpr)


def _random_params(abstract: Any) -> Any:
    """Host arrays of the parameters: normal with the standard deviation of a usual initialisation."""
    rng = np.random.default_rng(1)

    def leaf(path: Any, x: Any) -> np.ndarray:
        scale = x.shape[-2] ** -0.5 if path[-1].key == "kernel" else 0.02
        offset = 1.0 if path[-1].key in ("q_norm", "k_norm") else 0.0
        return (rng.standard_normal(x.shape, np.float32) * np.float32(scale) + np.float32(offset)).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, abstract)


def _turns(ours: Callable[[], Any], theirs: Callable[[], Any] | None, repeats: int) -> list[np.ndarray]:
    """Seconds of each, (repeats, 2): of the clock and of all threads. Run in turns, after a first call that is free."""
    calls = [call for call in (ours, theirs) if call is not None]
    times = np.zeros((len(calls), repeats + 1, 2))
    for turn in range(repeats + 1):
        for i, call in enumerate(calls):
            start, cpu = time.perf_counter(), time.process_time()
            call()
            times[i, turn] = time.perf_counter() - start, time.process_time() - cpu
    return list(times[:, 1:])


def _peak(mesh: Mesh) -> float:
    """FLOP/s of all devices: of the data sheet, or on a CPU of a large float32 matrix product."""
    device = mesh.devices.flat[0]
    kind = device.device_kind.lower().replace(" ", "").replace("lite", "e").replace("nvidia", "").replace("geforce", "")
    known = [chip for name, chip in CHIPS.items() if name in kind]
    if known:
        return known[0].flops * mesh.size
    if device.platform != "cpu":
        raise UserError(f"The peak of '{device.device_kind}' is not known; add it to planning/topology.py.")
    x = jnp.ones((3072, 3072), jnp.float32)
    product = jax.jit(jnp.matmul)
    seconds = np.median(_turns(lambda: product(x, x).block_until_ready(), None, 5)[0], axis=0)[0]
    return 2 * 3072**3 / seconds


def cases() -> Case:
    """The case that the flags describe."""
    full = FLAGS.size == "full"
    model = release("ltx2_19b" if full else "toy")
    config = model.transformer
    config = dataclasses.replace(config, num_layers=FLAGS.layers or (2 if full else config.num_layers))
    accelerated = jax.default_backend() != "cpu"
    if full:
        grid, audio, text, batch = ((16, 16, 24), 126, 1024, 1) if accelerated else ((2, 16, 24), 126, 256, 1)
    else:
        grid, audio, text, batch = (5, 4, 4), 53, 48, 16
    if FLAGS.grid:
        grid = tuple(int(n) for n in FLAGS.grid)
    dtype = FLAGS.dtype or ("bfloat16" if accelerated else "float32")
    remat = FLAGS.remat or ("none" if full or accelerated else "dots")  # small arrays: stored for longer than made
    return Case(config, model.video_vae.scale_factors, grid, audio, text, FLAGS.batch or batch, dtype, remat)


def main() -> None:
    """Entry point."""
    cli.define_config()
    flags.DEFINE_string("aot", None, "Compile the whole stack for this topology instead, e.g. v6e:2x4.")
    flags.DEFINE_bool("json", False, "One JSON line on stdout.")
    flags.DEFINE_enum("size", "full", ["full", "toy"], "Width of the blocks.")
    flags.DEFINE_integer("layers", None, "Blocks (default: 2 at full width).")
    flags.DEFINE_list("grid", None, "Latent frames, rows, columns.")
    flags.DEFINE_integer("batch", None, "Samples.")
    flags.DEFINE_string("dtype", None, "Of weights and compute (default: float32 on a CPU, else bfloat16).")
    flags.DEFINE_string("remat", None, "What the backward pass recomputes (default: none; dots at toy width on a CPU).")
    flags.DEFINE_integer("repeats", 5, "Timed runs; their median counts.")
    flags.DEFINE_bool("torch", None, "Run PyTorch's beside it (default: on a CPU where diffusers is installed).")
    cli.run(_run, __doc__ or "")


def _run() -> None:
    if FLAGS.aot:
        result = ahead_of_time(FLAGS.aot)
        print(json.dumps(result) if FLAGS.json else "\n".join(f"{k:<16} {v}" for k, v in result.items()))
        return
    case = cases()
    torch = FLAGS.torch
    if torch is None:
        from importlib.util import find_spec

        torch = jax.default_backend() == "cpu" and find_spec("diffusers") is not None
    sizes = f"{case.tokens} + {case.audio} tokens, {case.text} of text"
    blocks = f"{case.config.num_layers} layers of {case.config.video_width}, batch {case.batch}"
    print(f"{blocks}, {sizes}, {case.dtype}, on {jax.devices()[0].device_kind}", file=sys.stderr)
    rows = measure(case, FLAGS.repeats, torch)
    if FLAGS.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v:<17}" for k, v in row.items()))


if __name__ == "__main__":
    main()
